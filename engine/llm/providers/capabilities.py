"""What a server can do beyond plain answers: learnt from its answers, or asked for in a few tiny requests; kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from engine.llm.journal.answers import Answers
from engine.llm.types.model_spec import ModelSpec
from engine.llm.types.requests import Completion, Request
from registry.storage.objects import json_digest

Ability = Literal["n", "logprobs", "response_format", "sampling"]

MEANING: dict[str, str] = {
    "n": "several answers in one request; without it the prompt is paid for with each",
    "logprobs": "log-probabilities of tokens",
    "response_format": "answers held to a JSON Schema; without it the schema is asked for in words",
    "sampling": "different answers to the same prompt at a temperature above 0",
}


class Setting(NamedTuple):
    """A setting of a model, and what it must be instead."""

    name: str
    needed: str


def ruled_out(spec: ModelSpec, wanted: Sequence[Ability]) -> Setting | None:
    """The setting of a model that rules out one of the wanted abilities, whatever its server can do."""
    if "sampling" in wanted and spec.temperature == 0:
        return Setting("temperature", "a temperature above 0: with 0, all answers to a prompt are the same")
    return None


class Abilities(BaseModel):
    """True, False, or None where it is not known yet.

    `max_completion_tokens` is no ability but another name: models that reason refuse `max_tokens` for it.
    """

    model_config = ConfigDict(frozen=True)

    n: bool | None = None
    logprobs: bool | None = None
    response_format: bool | None = None
    sampling: bool | None = None
    max_completion_tokens: bool | None = None

    def unknown(self, wanted: Sequence[Ability] = get_args(Ability)) -> list[Ability]:
        """Those of the wanted ones that nobody has found out."""
        return [ability for ability in wanted if getattr(self, ability) is None]

    def missing(self, wanted: Sequence[Ability] = get_args(Ability)) -> list[Ability]:
        """Those of the wanted ones that the server does not have."""
        return [ability for ability in wanted if getattr(self, ability) is False]


async def recall(answers: Answers, spec: ModelSpec) -> Abilities:
    """What is known of a model on its server."""
    kept = (await answers.notes(_name(spec))).get(_name(spec))
    try:
        return Abilities.model_validate_json(kept) if kept else Abilities()
    except ValidationError:  # of another version of the engine
        return Abilities()


async def remember(answers: Answers, spec: ModelSpec, abilities: Abilities) -> None:
    """Keep what was found out."""
    await answers.note(_name(spec), abilities.model_dump_json(exclude_none=True))


_SAME = 5


class SampleWatch:
    """Notices when a server that is asked for several samples gives the same answer again and again.

    Short answers agree by chance, so it takes several prompts of which no two samples differ.
    """

    def __init__(self, spec: ModelSpec, answers: Answers) -> None:
        self.notes: list[str] = []
        self._spec = spec
        self._answers = answers
        self._same: set[str] = set()
        self._settled = False

    async def see(self, request: Request, answer: Completion) -> None:
        """Look at a new answer."""
        if self._settled or request.sample == 0 or answer.truncated:
            return
        if request.sampling["temperature"] == 0:
            self._settled = True
            self.notes.append("at temperature 0 all samples of a prompt are the same answer, each paid for; raise temperature")
            return
        key = replace(request, sample=0).key
        first = await self._answers.get(key)
        if first is None or first.truncated:  # beginnings agree more often than answers
            return
        if first.text != answer.text:
            self._settled = True
            return
        self._same.add(key)
        if len(self._same) >= _SAME:
            self._settled = True
            self.notes.append(
                f"{self._spec.model} at {self._spec.endpoint} gave the same answer to every sample of a prompt, for "
                f"{_SAME} prompts at temperature {request.sampling['temperature']:g}: it seems not to sample, so more "
                "samples tell nothing more"
            )


def _name(spec: ModelSpec) -> str:
    further = f" {json_digest(spec.extra_body)}" if spec.extra_body else ""  # it may switch abilities on and off
    return f"abilities {spec.endpoint} {spec.model}{further}"
