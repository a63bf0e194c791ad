"""Verifies answers: plain numbers are compared in this process, everything else in processes that can be killed.

An answer is a text that a model wrote. Our own grammar reads it (`expressions`, `forms`). It is never evaluated as code, and
never passed to a parser that does so, such as sympy's `parse_expr`. If an answer takes too long, such as 9^{9^{9^9}}, its
process is killed.
"""

from __future__ import annotations

import atexit
import re
import resource
import signal
import threading
from functools import cache
from typing import Any

from operators.math.answers.ambiguity import doubtful
from operators.math.answers.comparison import compare
from operators.math.answers.extraction import final_answer, gold_answer
from operators.math.answers.forms import read
from operators.math.answers.notation import as_number, grouped_readings, normalise
from operators.records import Verdict

__all__ = ["as_number", "final_answer", "gold_answer", "verify"]

TIMEOUT_SECONDS = 3.0
_PROCESSES = 2  # a comparison that hangs must not block the others
_MOST_CHARACTERS = 2000
_MOST_MEMORY = 4 << 30

_ONE_BRACED = re.compile(r"(?<=[_^])\{(\w)\}")

_starting = threading.Lock()


async def verify(gold: str, solution: str) -> tuple[Verdict, str | None]:
    """Compare a solution's final answer with the gold answer (bare, or in a text that `gold_answer` understands).

    Returns:
        (verdict, the answer that was found). `wrong` means that both sides were read and differ, `timeout` that the comparison
        took too long, and `unparsed` that a side could not be read or has several readings.
    """
    wanted = normalise(gold_answer(gold))
    predicted = final_answer(solution)
    if predicted is None:
        return "unparsed", None
    verdict = _compare_plain(wanted, predicted) or await _compare_in_process(wanted, predicted)
    return "unparsed" if verdict == "wrong" and doubtful(wanted, predicted) else verdict, predicted


def _compare_plain(gold: str, given: str) -> Verdict | None:
    """The verdict on plain numbers, equal texts, and texts that are too long; None for others."""
    same = _spelling(gold) == _spelling(given)
    if max(len(gold), len(given)) > _MOST_CHARACTERS:
        return "correct" if same else "unparsed"
    if not set("%$€£") & {*gold, *given}:
        expected, number = as_number(gold), as_number(given)
        if expected is not None and number is not None:
            # In half of the world, 1,234 means 1.234.
            if expected == number:
                return "correct"
            swapped = ({expected} | grouped_readings(gold)) & ({number} | grouped_readings(given))
            return "unparsed" if swapped else "wrong"
    return "correct" if same else None


def _spelling(text: str) -> str:
    return _ONE_BRACED.sub(r"\1", normalise(text))


async def _compare_in_process(gold: str, given: str) -> Verdict:
    """The comparison in a process of the pool; its time limit starts when a process takes it."""
    import asyncio  # it takes 30 ms, and `engine check` imports this module

    from pebble import ProcessExpired

    for _ in range(2):
        try:
            pool: Any = next((each for each in _pools() if each.active), None) or await asyncio.to_thread(_start_pool)
            task = pool.schedule(_compare, (gold, given, TIMEOUT_SECONDS), timeout=TIMEOUT_SECONDS)
            verdict: Verdict = await asyncio.wrap_future(task)
        except TimeoutError:
            return "timeout"
        except ProcessExpired as error:
            if error.exitcode == -signal.SIGALRM:
                return "timeout"
        except RuntimeError:
            continue  # the process was killed by something else, which says nothing about the answer
        else:
            return verdict
    return "unparsed"


@cache
def _pools() -> list[Any]:
    """The pool of this process, once there is one. It is a cached function, because a module's state would be part of the code
    fingerprint."""
    return []


def _start_pool() -> Any:
    import multiprocessing

    from pebble import ProcessPool

    with _starting:
        running = _pools()
        if not any(pool.active for pool in running):
            # Not fork: this process has threads. A fork server with all imports makes a new process in milliseconds.
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(["__main__", "mpmath", "operators.math.answers.verify"])
            if not running:
                atexit.register(_stop)  # otherwise a process that is starting prints an error
            _stop()  # one of its processes was killed; others may be alive
            running[:] = [ProcessPool(max_workers=_PROCESSES, context=context, initializer=_prepare)]
            running[0].schedule(_compare, ("x", "x + 1", TIMEOUT_SECONDS))
        return running[0]


def _stop() -> None:
    for pool in _pools():
        pool.stop()
        pool.join()


def _prepare() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # pebble's handler would wait for a long computation in C to end
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))


def _compare(gold: str, given: str, seconds: float) -> Verdict:
    """Compare in this process. It kills itself a little after its time is up, in case the parent that should do so has died."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, 1.5 * seconds + 0.5)
    try:
        expected, found = read(gold), read(given)
        return "unparsed" if expected is None or found is None else compare(expected, found)
    except (ArithmeticError, ValueError, RecursionError, MemoryError):
        return "unparsed"  # too large for mpmath, memory or stack
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
