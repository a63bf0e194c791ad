"""Turn verified solutions into examples to train on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Literal

from engine.operator import operator
from engine.operator.prompts import prompt_with
from operators.math.prompts import conversation
from operators.records import MathSolution, Message, SFTExample


@operator(outputs=SFTExample)
async def to_sft(
    solution: MathSolution,
    *,
    prompt: Annotated[str | None, prompt_with("question")] = None,
    format: Literal["messages", "alpaca"] = "messages",
    system: str | None = None,
) -> AsyncIterator[SFTExample]:
    """One SFT example a solution: the question as the user's turn, the solution as the completion to learn.

    Args:
        prompt: a template with {{ question }} for the user's turn; the bare question by default.
        format: `messages`, or `alpaca` for Alpaca's instruction text as the user's turn (the paper's choice; for a base
            model, whose chat template then is to add nothing).
        system: a system message in front of it.
    """
    turns = conversation(solution.question, prompt=prompt, format=format, system=system)
    yield SFTExample(prompt=turns, completion=[Message(role="assistant", content=solution.solution)])
