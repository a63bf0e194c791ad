"""What is known about a server's capabilities, kept as a note in the journal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from engine.llm.journal.answers import Answers
from engine.llm.providers.parameters import OPTIONAL
from engine.llm.types.capability import MEANING, Capability
from engine.llm.types.model_spec import ModelSpec
from registry.storage.checked_json import json_digest


class KnownCapabilities(BaseModel):
    """True, False, or None if not known yet.

    `max_completion_tokens` is not a capability but a name: reasoning models accept it in place of `max_tokens`. The parameters
    below it are False once the server has refused them for every request (see parameters.py).
    """

    model_config = ConfigDict(frozen=True)

    n: bool | None = None
    logprobs: bool | None = None
    response_format: bool | None = None
    sampling: bool | None = None
    images: bool | None = None
    tools: bool | None = None
    max_completion_tokens: bool | None = None
    temperature: bool | None = None
    top_p: bool | None = None
    stop: bool | None = None
    seed: bool | None = None

    @property
    def left_out(self) -> tuple[str, ...]:
        """The sampling parameters that are not sent."""
        return tuple(name for name in OPTIONAL if getattr(self, name) is False)

    def unknown(self, wanted: Sequence[Capability] = get_args(Capability)) -> list[Capability]:
        """The wanted capabilities that are not known yet."""
        return [each for each in wanted if getattr(self, each) is None]

    def missing(self, wanted: Sequence[Capability] = get_args(Capability)) -> list[Capability]:
        """The wanted capabilities that the server does not have."""
        return [each for each in wanted if getattr(self, each) is False]


async def recall(answers: Answers, spec: ModelSpec) -> KnownCapabilities:
    """What is known about a model on its server."""
    kept = (await answers.notes(_name(spec))).get(_name(spec))
    try:
        return KnownCapabilities.model_validate_json(kept) if kept else KnownCapabilities()
    except ValidationError:  # written by another version of the engine
        return KnownCapabilities()


async def remember(answers: Answers, spec: ModelSpec, known: KnownCapabilities) -> None:
    """Store what is known about a model on its server, as a note in the journal."""
    await answers.note(_name(spec), known.model_dump_json(exclude_none=True))


def lacks(spec: ModelSpec, capability: str) -> str:
    """For users: what a server turned out not to have."""
    if capability in OPTIONAL:
        return f"{spec.endpoint} takes no `{capability}` for {spec.model}: it is left out, and the server's default applies"
    return f"{spec.endpoint} does not support `{capability}` for {spec.model} ({MEANING[capability]})"


def _name(spec: ModelSpec) -> str:
    further = f" {json_digest(spec.extra_body)}" if spec.extra_body else ""  # it may enable or disable capabilities
    server = spec.endpoint if spec.serve is None else f"served {spec.serve.identity(spec.model)}"
    return f"abilities {server} {spec.model}{further}"
