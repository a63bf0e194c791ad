"""What servers may or may not support beyond plain answers."""

from __future__ import annotations

from typing import Literal

Capability = Literal["n", "logprobs", "response_format", "sampling"]

MEANING: dict[str, str] = {
    "n": "several answers in one request; without it each answer pays for the prompt again",
    "logprobs": "log-probabilities of tokens",
    "response_format": "answers that follow a JSON Schema; without it the prompt asks for the schema",
    "sampling": "different answers to the same prompt at a temperature above 0",
}
