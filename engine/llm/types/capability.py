"""What servers may or may not support beyond plain answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from engine.llm.types.model_spec import ModelSpec

Capability = Literal["n", "logprobs", "response_format", "sampling", "images", "tools"]

MEANING: dict[str, str] = {
    "n": "several answers in one request; without it each answer pays for the prompt again",
    "logprobs": "log-probabilities of tokens",
    "response_format": "answers that follow a JSON Schema; without it the prompt asks for the schema",
    "sampling": "different answers to the same prompt at a temperature above 0",
    "images": "images in a prompt",
    "tools": "tools that the model can call",
}


class Setting(NamedTuple):
    """A setting of a model, and what it must be instead."""

    name: str
    needed: str


def ruled_out(spec: ModelSpec, wanted: Sequence[Capability]) -> Setting | None:
    """The setting of a model that rules out one of the wanted capabilities, whatever its server can do."""
    if "sampling" in wanted and spec.temperature == 0:
        return Setting("temperature", "a temperature above 0: with 0, all answers to a prompt are the same")
    if "logprobs" in wanted and spec.provider == "anthropic":
        return Setting("provider", "log-probabilities of tokens, which Anthropic's API does not return")
    if "images" in wanted and not spec.remote:
        return Setting("provider", "images in its prompts: models in this process take texts only; serve it, or name a server")
    if "tools" in wanted and not spec.remote:
        return Setting("provider", "tools: models in this process call none; serve it, or name a server")
    return None
