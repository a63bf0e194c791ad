"""The record types that pipelines exchange. Field names are a contract; new fields are optional."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from registry import Artifact, Record

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
    """A person for whom problems are rewritten; `occupation` is one of the classes in operators/math/occupations.py."""

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
    """A prompt and a completion with the label whether it is desirable, as conversations (TRL's unpaired preference format)."""

    prompt: list[Message]
    completion: list[Message]
    label: bool


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
    """A passage that supports the correct answer of the item with this id or, without an id, with this question."""

    passage: str
    id: str | None = None
    question: str | None = None


class ConflictCase(Record):
    """An item's question with the contexts that a model sees: one cell of the grid.

    `pcn` contexts are poisoned; with `fc` there are also factual ones, before or after them.
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

    `revised_from` is the policy's own response if another model has rewritten it.
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
    """The result of a path in a cell: `n` judged responses, and the share that is correct with its 95 % interval.

    The best path of a cell is `chosen`. `note` has remarks on the choice, such as a tie or too few items.
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
    """How answers were sampled; a calibration holds only for answers sampled in the same way.

    `sampling` has the sampling parameters (without the seed) as JSON. With `at_least`, sampling stops after that many samples
    or later, when the last `patience` samples bring nothing new. `answer_pattern` extracts the answers from the texts.
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

    `logprobs` has the mean log-probability of the tokens of each sample, `option_logprobs` that of each option's letter as the
    first token.
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
    def _as_long(self) -> SampledAnswers:
        if self.logprobs is not None and len(self.logprobs) != len(self.samples):
            raise ValueError(f"logprobs has {len(self.logprobs)} numbers for {len(self.samples)} samples")
        if self.option_logprobs is not None and len(self.option_logprobs) != len(self.options or ()):
            raise ValueError(f"option_logprobs has {len(self.option_logprobs)} numbers for {len(self.options or ())} options")
        return self


class PredictionSet(Record):
    """The answers that a method cannot rule out at a level. `covered`: whether an accepted answer is among them.

    `abstained`: the true answer may be none of the sampled ones. If there is no set with the guarantee, the prediction is empty
    and `covered` is null. `loss` is the loss of risk control.
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
    """The threshold at a level for a category of questions: answers that score at most this are in the set (null: infeasible).

    It comes from `n` questions; for `unsampled` of them no accepted answer was sampled.
    """

    alpha: float
    category: str
    n: int
    unsampled: int
    entropy_weight: float
    similarity_weight: float
    threshold: float | None = None


class Calibration(Artifact):
    """Everything that prediction sets for new questions need, and the conditions under which they hold.

    Args:
        made: how the answers were sampled; null if it is not known.
        equivalence, min_similarity: when two answers are the same.
        encoder: the identity of the encoder for similarities; null without similarities.
        thresholds: by level and category.
        categories: the groups with thresholds of their own; null without groups.
        none_of_these: whether "none of the sampled answers" is an answer.
        on_infeasible: what to do where there is no threshold.
        loss: the loss that is kept below alpha.
        smallest_alpha, smallest_alpha_low, smallest_alpha_high: the smallest feasible level, with a 95 % interval.
        questions: digests of the calibration questions.
        features: of each of them: entropy, share of the most frequent answer, share of different answers; for the test of
            exchangeability.
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
