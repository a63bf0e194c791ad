"""The prompt that a student sees, the same in training and in evaluation."""

from __future__ import annotations

from typing import Literal

from engine.operator import render
from operators.records import Message


def conversation(
    question: str, *, prompt: str | None, format: Literal["messages", "alpaca"], system: str | None
) -> list[Message]:
    """The turns before the student's answer.

    Args:
        prompt: a template with {{ question }}; the bare question by default.
        question: the problem.
        format: `messages` uses the prompt as the user's turn; `alpaca` puts it into Alpaca's instruction text.
        system: a system message before it.
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
"""Alpaca's text as used for maths training (Taori et al. 2023; PersonaMath trains on it)."""
