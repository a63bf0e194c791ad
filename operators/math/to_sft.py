"""Turn verified solutions into training examples."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Literal

from engine.operator import Prompt, operator, template
from operators.math.prompts import conversation
from operators.records import MathSolution, Message, SFTExample


@operator
async def to_sft(
    solution: MathSolution,
    *,
    prompt: Annotated[str | None, template("question")] = None,
    format: Literal["messages", "alpaca"] = "messages",
    system: Annotated[str | None, Prompt()] = None,
    thinking: Literal["drop", "keep", "tag"] = "drop",
) -> AsyncIterator[SFTExample]:
    """Turn each solution into an SFT example: the question is the user's turn, the solution the completion to learn.

    Args:
        prompt: a template with {{ question }} for the user's turn; the bare question by default.
        format: `messages`, or `alpaca` for Alpaca's instruction text as the user's turn (the paper's choice, for a base model
            whose chat template adds nothing).
        system: a system message that comes first.
        thinking: what becomes of the teacher's reasoning before its solution. `keep` puts it beside the solution, as the turn's
            `thinking`, for students whose chat template has a place for it; `tag` puts it before the solution, between
            `<think>` and `</think>`, for all others; `drop` leaves it out.
    """
    turns = conversation(solution.question, prompt=prompt, format=format, system=system)
    yield SFTExample(prompt=turns, completion=[_answer(solution, thinking)])


def _answer(solution: MathSolution, thinking: Literal["drop", "keep", "tag"]) -> Message:
    thought = solution.thinking
    if thinking == "tag" and thought:
        return Message(role="assistant", content=f"<think>\n{thought}\n</think>\n\n{solution.solution}")
    return Message(role="assistant", content=solution.solution, thinking=thought if thinking == "keep" else None)
