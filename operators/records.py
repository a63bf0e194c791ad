"""The record types that pipelines exchange. Field names are a contract; operators may add optional fields."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

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


class Persona(Record):
    """Somebody in whose world a problem is told; `occupation` is one of the classes in operators/math/occupations.py."""

    persona: str
    occupation: str | None = None


class SFTExample(Record):
    """A prompt and the completion to learn, as conversations (TRL's prompt/completion format)."""

    prompt: list[Message]
    completion: list[Message]


class PreferencePair(Record):
    """A prompt, the better completion and the worse one, as conversations (TRL's explicit-prompt preference format)."""

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]


class LabelledExample(Record):
    """A prompt and a completion that is wanted or not, as conversations (TRL's unpaired preference format)."""

    prompt: list[Message]
    completion: list[Message]
    label: bool


class ConflictItem(Record):
    """A question with passages that back its correct answer (factual) and passages that back an incorrect one (poisoned)."""

    question: str
    correct_answer: str
    incorrect_answer: str
    poisoned: list[str]
    factual: list[str] = Field(default_factory=list)
    source: str | None = None
    id: str | None = None


class FactualPassage(Record):
    """A passage that backs the correct answer of the item with this id, or (without id) with this question."""

    passage: str
    id: str | None = None
    question: str | None = None


class ConflictCase(Record):
    """An item's question with the contexts that a model is shown: a cell of the grid.

    `pcn` of the contexts are poisoned; with `fc` there are factual ones, too, before or after them.
    """

    question: str
    correct_answer: str
    incorrect_answer: str
    contexts: list[str]
    pcn: int
    fc: bool
    factual_first: bool = False
    temperature: float = 0.0
    source: str | None = None
    id: str | None = None


class PathResponse(Record):
    """A ConflictCase, the policy's response along a path, and whether it gives the correct answer.

    `revised_from` is the policy's own response where another model has rewritten it.
    """

    question: str
    correct_answer: str
    incorrect_answer: str
    contexts: list[str]
    pcn: int
    fc: bool
    path: str
    response: str
    correct: bool
    factual_first: bool = False
    temperature: float = 0.0
    source: str | None = None
    id: str | None = None
    revised_from: str | None = None


class StrategyChoice(Record):
    """How a path did in a cell: `n` judged responses, the share that was correct with its 95 % interval; the best is chosen.

    `note` says what to know of a choice, such as a tie or too few items.
    """

    pcn: int
    fc: bool
    path: str
    n: int
    accuracy: float
    ci_low: float
    ci_high: float
    chosen: bool
    note: str | None = None


class ConflictPrediction(Record):
    """A ConflictCase, a model's response, and what it amounts to.

    `correct` is the judge's verdict (null without a judge). `strict` is true when the response concludes with the correct
    answer, `attacked` when it contains the incorrect answer anywhere (as PoisonedRAG counts), `attacked_strict` when it
    concludes with the incorrect answer.
    """

    question: str
    correct_answer: str
    incorrect_answer: str
    contexts: list[str]
    pcn: int
    fc: bool
    response: str
    strict: bool
    attacked: bool
    attacked_strict: bool
    correct: bool | None = None
    factual_first: bool = False
    temperature: float = 0.0
    source: str | None = None
    id: str | None = None
