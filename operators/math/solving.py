"""One attempt of a teacher at a problem: its solution and what came of checking that."""

from __future__ import annotations

from dataclasses import dataclass

from engine.llm.chat import ChatModel
from engine.llm.types.completions import Completion
from operators.math.verify import verify
from operators.records import Verdict


@dataclass(frozen=True)
class Attempt:
    """A complete solution with its verdict, or one that max_tokens cut off (then there is no verdict).

    Attributes:
        completion: the answer that it stands in.
        solution: the text.
        predicted: its final answer.
    """

    completion: Completion
    solution: str
    verdict: Verdict | None
    predicted: str | None = None


async def attempt(teacher: ChatModel, prompt: str, gold: str, *, sample: int = 0) -> Attempt:
    """Ask for a solution and compare its final answer with the gold answer, which the prompt must not show."""
    completion = await teacher.chat(prompt, sample=sample)
    solution = completion.text.strip()
    if completion.truncated:
        return Attempt(completion, solution, None)
    verdict, predicted = await verify(gold, solution)
    return Attempt(completion, solution, verdict, predicted)


def cut_off(teacher: ChatModel) -> str:
    """Why an attempt without a verdict is of no use."""
    return f"the answer was cut off at max_tokens={teacher.spec.max_tokens}"
