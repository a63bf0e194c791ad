"""The prompt that a student sees, the same in training and evaluation."""

from __future__ import annotations

from typing import Literal

from engine.operator import render
from operators.records import Message


def conversation(
    question: str, *, prompt: str | None, format: Literal["messages", "alpaca"], system: str | None
) -> list[Message]:
    """The turns before the student's answer.

    Args:
        question: the problem.
        prompt: a template with {{ question }}; None uses the bare question.
        format: `messages` uses the prompt as the user's turn; `alpaca` puts it into Alpaca's instruction text.
        system: a system message that comes first.
    """
    text = render(prompt, question=question) if prompt else question
    if format == "alpaca":
        text = render(ALPACA, instruction=text)
    turns = [Message(role="system", content=system)] if system else []
    return [*turns, Message(role="user", content=text)]


ALPACA = """\
Below is an instruction that describes a task. Write a response that appropriately completes the request.

### Instruction:
{{ instruction }}

### Response: Let's think step by step."""
"""Alpaca's instruction text in the form used for maths training (Taori et al. 2023; PersonaMath trains on it)."""
