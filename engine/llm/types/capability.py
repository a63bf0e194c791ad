"""What a server may or may not be able to do beyond plain answers."""

from __future__ import annotations

from typing import Literal

Capability = Literal["n", "logprobs", "response_format", "sampling"]

MEANING: dict[str, str] = {
    "n": "several answers in one request; without it the prompt is paid for with each",
    "logprobs": "log-probabilities of tokens",
    "response_format": "answers held to a JSON Schema; without it the schema is asked for in words",
    "sampling": "different answers to the same prompt at a temperature above 0",
}
