"""Is an answer right? Exact arithmetic for plain numbers, math-verify for expressions, in processes that can be killed.

math-verify guards itself with SIGALRM, which works on the main thread only: elsewhere it raises, and without its guard it
can hang. So it runs unguarded in a process of its own, which is killed when it takes too long.
"""

from __future__ import annotations

import asyncio
import atexit
import multiprocessing
import re
import resource
import signal
import threading
from functools import cache
from typing import Any

from operators.math.answers import as_number, final_answer, gold_answer, normalise
from operators.math.forms import Form, compare, read
from operators.records import Verdict

__all__ = ["as_number", "final_answer", "gold_answer", "verify"]

TIMEOUT_SECONDS = 3.0
_PROCESSES = 2  # one comparison that hangs must not keep the others waiting
_MOST_CHARACTERS = 2000
_MOST_MEMORY = 4 << 30

_ONE_BRACED = re.compile(r"(?<=[_^])\{(\w)\}")
_FUNCTION = re.compile(r"(?<![\\A-Za-z])(?:sin|cos|tan|log|ln|sqrt|pi)(?![A-Za-z])")
_UNREADABLE = re.compile(
    r"[$\n\\]\s*$|[$\n#?@%]|[^\x00-\x7f]|\d\s+\d|\d[eE][+-]?\d|\.\.|\d\s*\\frac|\d\s*_|--|\d\s*:\s*\d|[\d)]\s*\(\s*[\d.]+\s*\)|(?:^|[\s\d()])[A-Za-z]{3,}"
    r"|\\(?:[lc]?dots|text|mathrm|boxed|approx|sim|pmod|bmod|mod|neg|not|overline|bar|vec|hat|mathbf|langle)(?![A-Za-z])"
)
"""What math-verify reads in part, or otherwise than it is meant: "5 6" and 5(6) as 11, 1e5 as a product."""

_starting = threading.Lock()


async def verify(gold: str, solution: str) -> tuple[Verdict, str | None]:
    """Compare a solution's final answer with the gold answer (bare, or in a text as `gold_answer` takes it).

    Returns:
        The verdict and the answer that was found. `wrong` means that both sides were read and differ; what took too long is
        a `timeout`, and what could not be read, or has several readings, is `unparsed`.
    """
    wanted = gold_answer(gold)
    predicted = final_answer(solution)
    if predicted is None:
        return "unparsed", None
    if max(len(wanted), len(predicted)) > _MOST_CHARACTERS:
        return _exactly(normalise(wanted), predicted) or "unparsed", predicted
    if not set("%$€£") & {*wanted, *predicted} and (plain := _exactly(wanted, predicted)):
        return plain, predicted
    expected, given = read(wanted), read(predicted)
    if expected is None or given is None:
        return ("correct" if normalise(wanted) == predicted else "unparsed"), predicted
    verdict = compare(expected, given, _exactly)
    return verdict or await _elsewhere(expected, given), predicted


def _exactly(gold: str, given: str) -> Verdict | None:
    expected, number = as_number(gold), as_number(given)
    if expected is not None and number is not None:
        return "correct" if expected == number else "wrong"
    return "correct" if _ONE_BRACED.sub(r"\1", gold) == _ONE_BRACED.sub(r"\1", given) else None


async def _elsewhere(gold: Form, given: Form) -> Verdict:
    """The comparison in a process of the pool; its time counts from when a process takes it up."""
    from pebble import ProcessExpired

    for _ in range(2):
        try:
            pool: Any = next((each for each in _running() if each.active), None) or await asyncio.to_thread(_started)
            task = pool.schedule(_compare, (gold, given, TIMEOUT_SECONDS), timeout=TIMEOUT_SECONDS)
            verdict: Verdict = await asyncio.wrap_future(task)
        except TimeoutError:
            return "timeout"
        except ProcessExpired as error:
            if error.exitcode == -signal.SIGALRM:
                return "timeout"
        except RuntimeError:
            continue  # someone killed the process; that says nothing about the answer
        else:
            return verdict
    return "unparsed"


@cache
def _running() -> list[Any]:
    """The pool of this process, once there is one. A cache, because what a process keeps is no part of its code's meaning."""
    return []


def _started() -> Any:
    from pebble import ProcessPool

    with _starting:
        running = _running()
        if not any(pool.active for pool in running):
            # Not fork: this process has threads. A server that has imported all makes a new process in milliseconds.
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(["__main__", "math_verify", "operators.math.verify"])
            if not running:
                atexit.register(_stop)  # otherwise a process that is just starting complains on stderr
            _stop()  # one of its processes was killed, another may be alive
            running[:] = [ProcessPool(max_workers=_PROCESSES, context=context, initializer=_prepare)]
            running[0].schedule(_compare, (Form("value", "1"), Form("value", "1"), TIMEOUT_SECONDS))
        return running[0]


def _stop() -> None:
    for pool in _running():
        pool.stop()
        pool.join()


def _prepare() -> None:
    import logging

    logging.getLogger("math_verify").setLevel(logging.ERROR)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # pebble's handler would wait for the end of a long computation in C
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))


def _compare(gold: Form, given: Form, seconds: float) -> Verdict:
    """Compare in this process, which ends itself if its parent, who should end it in time, is no more."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, 1.5 * seconds + 0.5)
    try:
        return compare(gold, given, _mathematically) or "unparsed"
    except Exception:
        return "unparsed"  # the parser and sympy raise whatever they like at what models write
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _mathematically(gold: str, given: str) -> Verdict:
    """math-verify's verdict on two expressions, with what it takes for equal checked."""
    from math_verify import verify as equal
    from sympy import Expr, Symbol, simplify

    if (plain := _exactly(gold, given)) is not None:
        return plain
    expected, found = _parsed(gold), _parsed(given)
    if expected is None or found is None:
        return "unparsed"
    if isinstance(expected, Symbol) != isinstance(found, Symbol) and isinstance(expected, Expr) and isinstance(found, Expr):
        # A symbol would be compared by its name: x is 2x/2.
        return "correct" if simplify(expected - found) == 0 else "wrong"
    if not equal(expected, found, timeout_seconds=None):
        return "wrong"
    return "correct" if _confirmed(expected, found) else "unparsed"


def _parsed(text: str) -> Any:
    """An expression as sympy's, decimals as exact fractions; None if it cannot be read whole."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse
    from sympy import Float, I, Rational, Symbol, nan, zoo

    text = _FUNCTION.sub(r"\\\g<0>", text)
    if not text or _UNREADABLE.search(text):
        return None
    # As it comes, math-verify drops any unit and takes the first thing in the text that it can read.
    normalisation = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none")
    extraction = LatexExtractionConfig(boxed_match_priority=-1, normalization_config=normalisation)
    # Bare `2\sqrt{3}` would be read as 2; between dollar signs it is read whole.
    found = parse(f"${text}$", [extraction], "no_fallback", "first_match", parsing_timeout=None)
    if not found or isinstance(found[0], str) or found[0].has(nan, zoo):
        return None
    exact = found[0].replace(lambda part: isinstance(part, Float), lambda part: Rational(str(part)))
    return exact.subs({Symbol("i", real=real): I for real in (True, False)})


def _confirmed(gold: Any, given: Any) -> bool:
    """Whether what math-verify calls equal is equal: it takes all numbers below 10^-15 for zero, and equations without real
    solutions for the same.
    """
    from sympy import Expr, simplify
    from sympy.core.relational import Relational

    if isinstance(gold, Relational) and isinstance(given, Relational):
        ratio = simplify((gold.lhs - gold.rhs) / (given.lhs - given.rhs))
        return bool(ratio.is_number and ratio != 0)
    if isinstance(gold, Expr) and isinstance(given, Expr) and not gold.free_symbols | given.free_symbols:
        a, b = gold.evalf(50), given.evalf(50)
        return bool(a == b or abs(a - b) <= abs(a) * 10**-40)
    return True
