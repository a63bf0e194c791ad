"""What a client says of a request to those who count: what it may take at most, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict


@dataclass(frozen=True)
class Outcome:
    """How a request ended and what it really took.

    Args:
        kind: `throttled` is a 429; `refused` any other answer that was no completion and is not billed; `failed` any
            other request without an answer; `unsent` was let out and did not go.
        tokens, tokens_in: of prompt and answer together, and of the prompt.
        cost: in US dollars.
        accounted: `cost` is all that the server bills. Otherwise the request counts with the most that it can cost,
            and with `cost` at least.
        retry_after: the server's wish in seconds, with `throttled` or `down`.
        down: the endpoint is in trouble, in the words of `why`; `unreachable`: nobody listens there. See Outage.
    """

    kind: Literal["answered", "throttled", "refused", "failed", "unsent"]
    tokens: int = 0
    cost: float = 0.0
    tokens_in: int = 0
    accounted: bool = True
    retry_after: float | None = None
    down: bool = False
    unreachable: bool = False
    why: str = ""


class Spent(BaseModel):
    """What was spent on a model: US dollars, and requests (tries count)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    usd: float = 0.0
    calls: int = 0

    def __add__(self, other: Spent) -> Spent:
        return Spent(usd=self.usd + other.usd, calls=self.calls + other.calls)
