"""Word problems about a warehouse, which scripted servers of benchmarks solve and retell without a model.

A problem has three numbers, in this order: containers, items in each, and loose items. The answer is `containers * each + loose`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from zlib import crc32

ORIGINAL = (
    "A warehouse in the harbour receives {crates} crates of oranges on Monday morning, and there are {each} oranges in every "
    "crate. In the afternoon a small van brings {loose} more oranges that lie loose in a net. How many oranges does the "
    "warehouse have by the evening?"
)
RETOLD = (
    "At the end of a long day {name} wants to know what is on the shelves. There are {crates} boxes with {each} pieces each, "
    "and {loose} further pieces stand beside them on the counter. What is the total number of pieces that {name} writes down?"
)
HELD_OUT = (
    "The printing office fills {crates} envelopes for its subscribers. Into every envelope go {each} leaflets. {loose} "
    "leaflets are left over when the work is finished. With how many leaflets did the office start?"
)
SOLUTION = """\
We are told that there are {crates} containers, that each of them holds {each} items, and that {loose} more items come on top \
of these. We are asked how many items there are in all.

First, the items in the containers: {crates} * {each} = {product}.
Then those that come on top of them: {product} + {loose} = {total}.
To check, we go backwards: {total} - {loose} = {product}, and {product} / {each} = {crates}, as it should be.

\\boxed{{{total}}}"""


def problems(numbers: Iterable[int], wording: str = ORIGINAL) -> Iterator[dict[str, str]]:
    """Problems of which no two are the same, as rows of a MathProblem."""
    for number in numbers:
        crates, each, loose = 11 + number % 89, 11 + number // 89 % 89, 101 + number // 89**2
        question = wording.format(crates=crates, each=each, loose=loose)
        yield {"question": question, "answer": str(crates * each + loose), "id": f"problem-{number}"}


def is_original(problem: str) -> bool:
    """Whether a problem is in the wording of `ORIGINAL`."""
    return problem.startswith(ORIGINAL[:20])


def retold(problem: str, persona: str) -> str:
    """The problem in other words, with a name that only this persona has."""
    # Two personas must not tell a problem in the same words.
    name = "".join("bdfgklmnprstvwzc"[crc32(persona.encode()) >> place & 15] + "a" for place in (0, 4, 8, 12, 16))
    crates, each, loose = _numbers(problem)
    return RETOLD.format(name=name.capitalize(), crates=crates, each=each, loose=loose)


def worked(problem: str, *, wrong: bool) -> str:
    """A solution with its calculations; a wrong one is off by one in the end."""
    crates, each, loose = _numbers(problem)
    product = crates * each
    return SOLUTION.format(crates=crates, each=each, loose=loose, product=product, total=product + loose + wrong)


def _numbers(problem: str) -> list[int]:
    """The problem's numbers; a solution may follow it."""
    return [int(found) for found in re.findall(r"\d+", problem)[:3]]
