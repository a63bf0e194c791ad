"""Is an answer right? Exact arithmetic for plain numbers, math-verify for the rest, in a process that can be killed.

math-verify guards itself with SIGALRM, which works on the main thread only: elsewhere it raises, and without its guard it
can hang. So it runs unguarded in a process of its own, which is killed when it takes too long.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import re
import unicodedata
from fractions import Fraction
from functools import cache
from typing import Any

from operators.records import Verdict

TIMEOUT_SECONDS = 3.0

_LOG = logging.getLogger(__name__)

_NUMBER = re.compile(r"[+-]?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+)?(?:\s*/\s*\d+)?")
_MOST_DIGITS = 400
_FINAL = re.compile(r"(?:final answer|answer)\s*(?:is|:|=)\s*:?\s*(.+)", re.IGNORECASE)
_MINUS = str.maketrans({"\u2212": "-", "\u2013": "-", "\ufe63": "-", "\uff0d": "-"})


def final_answer(solution: str) -> str | None:
    """The answer that a solution ends in: the last \\boxed{}, else what follows `####` or "the answer is", else the last
    number; None when there is none of these.
    """
    text = normalise(solution)
    if (boxed := _last_boxed(text)) is not None:
        return boxed.strip() or None
    if "####" in text:
        tail = text.rpartition("####")[2].strip()
        return tail.splitlines()[0].strip() if tail else None
    stated = _FINAL.findall(text)
    if stated:
        # "The answer is 3 + 4 = 7." ends in its answer; "The answer is 5, because 2 + 3 = 5" begins with it.
        sentence = re.split(r"(?<!\d)[.,;](?=\s|$)|(?<=\d)[.,;](?=\s|$)|\b(?:because|since|as)\b", stated[-1])[0]
        if numbers := _NUMBER.findall(sentence.rpartition("=")[2]):
            return str(numbers[0]).strip()
    numbers = _NUMBER.findall(text)
    return str(numbers[-1]).strip() if numbers else None


def normalise(text: str) -> str:
    """NFKC, ASCII minus signs, no LaTeX spacing."""
    text = unicodedata.normalize("NFKC", text).translate(_MINUS)
    return re.sub(r"\\[,;:! ]", " ", text).replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")


def as_number(text: str) -> Fraction | None:
    """A plain number (integer, decimal, `1e6`, `3/4`, thousands separators, a $ or % sign around it) exactly, else None.

    A percentage is its number of per cents: 25% is 25.
    """
    bare = normalise(text).strip().strip("$").strip().removesuffix("\\%").removesuffix("%").rstrip(".").strip()
    if not _NUMBER.fullmatch(bare) or len(bare) > _MOST_DIGITS:
        return None
    bare = bare.replace(" ", "")
    top, _, bottom = bare.replace(",", "").partition("/")
    if len(top.lower().partition("e")[2]) > 4:
        return None  # 1e99999 is not worth its digits
    if bottom and not int(bottom):
        return None
    return Fraction(top) / (Fraction(bottom) if bottom else 1)


async def verify(gold: str, solution: str) -> tuple[Verdict, str | None]:
    """Compare a solution's final answer with the gold answer.

    Returns:
        The verdict and the answer that was found. A timeout or an unparsed answer is never called wrong.
    """
    predicted = final_answer(solution)
    if predicted is None:
        return "unparsed", None
    expected, given = as_number(gold), as_number(predicted)
    if expected is not None and given is not None:
        return ("correct" if expected == given else "wrong"), predicted
    if normalise(gold).strip() == predicted:
        return "correct", predicted
    try:
        return await asyncio.wrap_future(_pool().schedule(compare, (gold, predicted), timeout=TIMEOUT_SECONDS)), predicted
    except TimeoutError:
        return "timeout", predicted
    except Exception as error:  # the parser and sympy raise whatever they like at what models write
        _LOG.info("math-verify failed on %r: %r", predicted, error)
        return "unparsed", predicted


def compare(gold: str, predicted: str) -> Verdict:
    """math-verify's verdict on two expressions; to be run where it can be killed."""
    from math_verify import parse
    from math_verify import verify as equal

    # Bare `2\sqrt{3}` would be read as 2; between dollar signs it is read whole.
    expected = parse(f"${normalise(gold).strip('$')}$", parsing_timeout=None)
    given = parse(f"${predicted.strip('$')}$", parsing_timeout=None)
    if not expected or not given:
        return "unparsed"
    return "correct" if equal(expected, given, timeout_seconds=None) else "wrong"


def _last_boxed(text: str) -> str | None:
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth = 0
    for place in range(start + len("\\boxed"), len(text)):
        depth += (text[place] == "{") - (text[place] == "}")
        if depth == 0:
            return text[start + len("\\boxed{") : place]
    return None


@cache
def _pool() -> Any:
    from pebble import ProcessPool

    # Not fork: this process has threads. The import is done before the clock of the first comparison starts.
    return ProcessPool(max_workers=1, context=multiprocessing.get_context("spawn"), initializer=_load)


def _load() -> None:
    import math_verify  # noqa: F401
