"""Turn verified solutions into examples to train on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from engine.operator import operator
from engine.prompt import prompt_with, render
from operators.records import MathSolution, Message, SFTExample


@operator(outputs=SFTExample)
async def to_sft(
    solution: MathSolution,
    *,
    prompt: Annotated[str | None, prompt_with("question")] = None,
    system: str | None = None,
) -> AsyncIterator[SFTExample]:
    """One SFT example a solution: the question as the user's turn, the solution as the completion to learn.

    Args:
        prompt: a template with {{ question }} for the user's turn; the bare question by default.
        system: a system message in front of it.
    """
    turns = [Message(role="system", content=system)] if system else []
    turns.append(Message(role="user", content=render(prompt or PROMPT, question=solution.question)))
    yield SFTExample(prompt=turns, completion=[Message(role="assistant", content=solution.solution)])


PROMPT = "{{ question }}"
