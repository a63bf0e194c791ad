"""The record types that pipelines exchange. Field names are a contract; new fields are optional."""

from __future__ import annotations

import json
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from engine.operator import formats
from registry import Artifact, Record
from registry.counted import counted

Verdict = Literal["correct", "wrong", "unparsed", "timeout"]


class FunctionCall(Record):
    """The function that a model calls, and its arguments as JSON text."""

    name: str
    arguments: str = "{}"


class ToolCall(Record):
    """A call of a tool, as in the OpenAI API."""

    function: FunctionCall
    id: str | None = None
    type: Literal["function"] = "function"


class Message(Record):
    """One turn of a conversation.

    An assistant's turn may have `thinking`, the reasoning before its answer, and `tool_calls`. A turn with the role `tool` is
    the result of the call `tool_call_id`. `name` is the name of the speaker or the tool.
    """

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    thinking: str | None = None
    tool_calls: list[ToolCall] | None = None
    name: str | None = None
    tool_call_id: str | None = None


def read_tools(text: str) -> list[dict[str, Any]]:
    """The tools of an SFTExample; raises ValueError if they are not a JSON list of objects."""
    try:
        tools = json.loads(text)
    except ValueError as error:
        raise ValueError(f"tools is not JSON: {error}") from None
    if not isinstance(tools, list) or not all(isinstance(each, dict) for each in tools):
        raise ValueError("tools is not a list of objects in JSON")
    return tools


def _are_tools(text: str | None) -> str | None:
    if text is not None:
        read_tools(text)
    return text


ToolsText = Annotated[str | None, AfterValidator(_are_tools)]
"""Tools as JSON text, if there are any."""


@formats("operators.formats.table")
class MathProblem(Record):
    """A problem and its gold answer."""

    question: str
    answer: str
    source: str | None = None
    id: str | None = None


class MathSolution(Record):
    """A model's solution of a problem; `answer` is the gold answer, `predicted` the model's.

    `thinking` is the model's reasoning before the solution, if its server returns it.
    """

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
    thinking: str | None = None


class Persona(Record):
    """A person for whom problems are rewritten; `occupation` is one of the classes of classify_personas."""

    persona: str
    occupation: str | None = None


@formats("operators.formats.table")
class SFTExample(Record):
    """A prompt and the completion to learn, as conversations (TRL's prompt/completion format).

    `tools` are those that the model could call: JSON text of a list of `{type: function, function: {name, parameters, ...}}`.
    """

    prompt: list[Message]
    completion: list[Message]
    tools: ToolsText = None


@formats("operators.formats.table")
class PreferencePair(Record):
    """A prompt, the better completion and the worse one, as conversations (TRL's explicit-prompt preference format).

    `tools` are those of an SFTExample.
    """

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]
    tools: ToolsText = None


@formats("operators.formats.table")
class LabelledExample(Record):
    """A prompt, a completion, and whether the completion is desirable, as conversations (TRL's unpaired preference format).

    `tools` are those of an SFTExample.
    """

    prompt: list[Message]
    completion: list[Message]
    label: bool
    tools: ToolsText = None


@formats("operators.formats.table")
class ConflictItem(Record):
    """A question, passages that support its correct answer (factual), and passages that support an incorrect one (poisoned)."""

    question: str
    correct_answer: str
    incorrect_answer: str
    poisoned: list[str]
    factual: list[str] = Field(default_factory=list)
    source: str | None = None
    id: str | None = None


class FactualPassage(Record):
    """A passage that supports the correct answer of the item with this `id` or, if it has none, this `question`."""

    passage: str
    id: str | None = None
    question: str | None = None


class ConflictCase(Record):
    """An item's question with the contexts that a model sees: one cell of the grid.

    `pcn` of the contexts are poisoned. If `fc` is true, there are also factual ones, before or after them.
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

    If another model has rewritten the response, `revised_from` is the policy's own.
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
    """The result of a path in a cell: `n` judged responses, and the share of correct ones with its 95% interval.

    `chosen` marks the best path of a cell. `note` says how far to trust the choice (a tie, or too few items).
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
    """A ConflictCase, a model's response, and its assessment.

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


@formats("operators.formats.table")
class Question(Record):
    """A question with its accepted answers (aliases of the true answer; empty if it is not known).

    A question with `options` is multiple choice; its answers are options, by text or by letter (A, B, ...).
    """

    question: str
    answers: list[str]
    options: list[str] | None = None
    group: str | None = None
    id: str | None = None


class Sampling(Record):
    """How answers were sampled; a calibration is valid only for answers sampled in the same way.

    `sampling` contains the sampling parameters (without the seed) as JSON. With `at_least`, sampling stops after at least that
    many samples, as soon as the last `patience` samples bring nothing new. `answer_pattern` extracts the answers from the
    texts.
    """

    model: str
    prompt: str
    sampling: str
    samples: int
    at_least: int | None = None
    patience: int | None = None
    answer_pattern: str | None = None


class SampledAnswers(Record):
    """A question and a model's answers to it, sampled several times.

    `logprobs` contains the mean log-probability of each sample's tokens, `option_logprobs` the log-probability of each option's
    letter as the first token.
    """

    question: str
    answers: list[str]
    samples: list[str]
    logprobs: list[float] | None = None
    options: list[str] | None = None
    option_logprobs: list[float] | None = None
    group: str | None = None
    id: str | None = None
    made: Sampling | None = None

    @model_validator(mode="after")
    def _equal_lengths(self) -> SampledAnswers:
        if self.logprobs is not None and len(self.logprobs) != len(self.samples):
            raise ValueError(f"logprobs has {counted(self.logprobs, 'number')} for {counted(self.samples, 'sample')}")
        if self.option_logprobs is not None and len(self.option_logprobs) != len(self.options or ()):
            raise ValueError(
                f"option_logprobs has {counted(self.option_logprobs, 'number')} for {counted(self.options or (), 'option')}"
            )
        return self


class PredictionSet(Record):
    """The answers that a method cannot rule out at the level `alpha`; `covered` says whether an accepted answer is among them.

    `abstained` means that the true answer may not be among the sampled ones. If no set has the guarantee, the prediction is
    empty and `covered` is null. `loss` is the loss of risk control.
    """

    question: str
    alpha: float
    prediction: list[str]
    abstained: bool
    covered: bool | None = None
    group: str | None = None
    id: str | None = None
    method: str = "lofree"
    loss: float | None = None


class Threshold(Record):
    """The threshold at a level for a category of questions: answers with this score or a lower one are in the set.

    It is null if the level is infeasible. It comes from `n` questions; for `unsampled` of them, no accepted answer was sampled.
    """

    alpha: float
    category: str
    n: int
    unsampled: int
    entropy_weight: float
    similarity_weight: float
    threshold: float | None = None


class Calibration(Artifact):
    """Everything needed to predict sets for new questions, and the conditions under which their guarantee holds.

    Args:
        made: how the answers were sampled; null if unknown.
        equivalence, min_similarity: when two answers count as the same.
        encoder: the identity of the encoder; null if similarities are not used.
        thresholds: one for each level and category.
        categories: the groups with thresholds of their own; null without groups.
        none_of_these: whether "none of the sampled answers" counts as an answer.
        on_infeasible: what to do at a level without a threshold.
        loss: the loss whose mean is kept at or below alpha.
        smallest_alpha, smallest_alpha_low, smallest_alpha_high: the smallest feasible level, with its 95% interval.
        questions: digests of the calibration questions.
        features: for each of these questions its entropy, the share of the most frequent answer and the share of different
            answers; cp_predict tests exchangeability with them.
    """

    registry_kind: ClassVar[str] = "calibration"

    made: Sampling | None
    equivalence: Literal["exact", "qa", "math", "embedding"]
    min_similarity: float
    encoder: str | None
    thresholds: list[Threshold]
    categories: list[str] | None
    none_of_these: bool
    on_infeasible: Literal["abstain", "sampled", "fail"]
    loss: Literal["missed", "distance"]
    smallest_alpha: float
    smallest_alpha_low: float
    smallest_alpha_high: float
    questions: list[str]
    features: list[list[float]]
