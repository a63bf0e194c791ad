"""The record types that pipelines exchange. Field names are a contract; operators may add optional fields."""

from __future__ import annotations

from typing import Literal

from registry import Record

Verdict = Literal["correct", "wrong", "unparsed", "timeout"]


class Message(Record):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class MathProblem(Record):
    """A problem and its gold answer."""

    question: str
    answer: str
    source: str | None = None
    id: str | None = None


class MathSolution(Record):
    """A model's solution of a problem; `answer` is the gold answer, `predicted` the model's."""

    question: str
    answer: str
    solution: str
    verdict: Verdict
    stage: Literal[1, 2] = 1
    predicted: str | None = None
    source: str | None = None
    id: str | None = None
    persona: str | None = None
    occupation: str | None = None


class SFTExample(Record):
    """A prompt and the completion to learn, as conversations (TRL's prompt/completion format)."""

    prompt: list[Message]
    completion: list[Message]
