"""Operators of `benchmarks.forecast`, as a pipeline would have them beside its file."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Annotated

from pydantic import Field

from engine.operator import ChatModel, Params, Record, Reject, RequestError, Table, operator, render, template

PROMPT = "Write an answer to this. Be complete, and check it.\n\n{{ text }}"


class Passage(Record):
    """A text."""

    text: str


class Asking(Params):
    """How to ask, and how often."""

    prompt: Annotated[str | None, template("text", builtin=PROMPT)] = None
    attempts: Annotated[int, Field(ge=1)] = 1

    def calls(self) -> dict[str, int]:
        """One call for each attempt."""
        return {"teacher": self.attempts}

    def prompt_bytes(self) -> int:
        """The template; no prompt contains an answer."""
        return len((self.prompt or PROMPT).encode())


@operator
async def answered(passage: Passage, teacher: ChatModel, params: Asking) -> AsyncIterator[Passage]:
    """The first answer that is good; a row without one is rejected."""
    for sample in range(params.attempts):
        text = (await teacher.chat(render(params.prompt or PROMPT, text=passage.text), sample=sample)).text
        if text.startswith("GOOD"):
            yield Passage(text=text)
            return
    raise Reject("no good answer")


@operator(outputs={"kept": Passage, "dropped": Passage})
async def judged(passage: Passage, judge: ChatModel) -> AsyncIterator[tuple[str, Passage]]:
    """Texts that a judge finds good, and the others."""
    answer = await judge.chat(f"Is this good? {passage.text}")
    yield ("kept" if answer.text.startswith("GOOD") else "dropped"), passage


@operator
async def pieces(passage: Passage, *, words: int = 12) -> AsyncIterator[Passage]:
    """A text in pieces: long ones make more of them."""
    split = passage.text.split()
    for first in range(0, len(split), words):
        yield Passage(text=" ".join(split[first : first + words]))


@operator
def once(passages: Table[Passage]) -> Iterator[Passage]:
    """Texts that begin with the same words only once."""
    seen = set()
    for passage in passages:
        if (start := passage.text[:14]) not in seen:
            seen.add(start)
            yield passage


@operator
async def tried(passage: Passage, teacher: ChatModel) -> AsyncIterator[Passage]:
    """Two calls, the second about the answer to the first."""
    try:
        first = await teacher.chat(f"Draft: {passage.text}")
    except RequestError as error:
        raise Reject(str(error)) from error
    second = await teacher.chat(f"Improve: {first.text}")
    yield Passage(text=second.text)
