"""A teacher's attempt at a problem: its solution and the verdict on it."""

from __future__ import annotations

from dataclasses import dataclass

from engine.operator import ChatModel, Completion
from operators.math.answers.verify import verify
from operators.records import Verdict


@dataclass(frozen=True)
class Attempt:
    """A complete solution with its verdict, or a solution that was cut off at max_tokens.

    Attributes:
        completion: the model's answer.
        solution: the text of the solution.
        verdict: whether the final answer is right; None for a solution that was cut off.
        predicted: the final answer in the solution.
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


def cut_off(teacher: ChatModel, answer: Completion) -> str:
    """The reason to reject an attempt without a verdict."""
    return f"the answer was {teacher.cut_off(answer)}"
