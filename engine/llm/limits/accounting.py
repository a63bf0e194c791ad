"""How a request ended and what was spent, as the limits and budgets count it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict


@dataclass(frozen=True)
class CallOutcome:
    """How a request ended and what it actually used.

    Args:
        kind: `throttled` is a 429; `refused` is any other response without a completion that is not billed; `failed` is
            any other request without an answer; `unsent` was admitted but not sent.
        tokens, tokens_in: tokens of prompt and answer together, and of the prompt.
        cost: the cost in US dollars.
        accounted: `cost` is all that the server bills. Otherwise the request counts with the maximum of its estimate and
            `cost`.
        retry_after: seconds that the server asks to wait, with `throttled` or `down`.
        down: the endpoint is in trouble; `unreachable`: nothing listens at the address. See Outage.
        why: what happened, for the user, with `throttled` or `down`.
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
    """What was spent on a model: US dollars, and requests (every attempt counts)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    usd: float = 0.0
    calls: int = 0

    def __add__(self, other: Spent) -> Spent:
        return Spent(usd=self.usd + other.usd, calls=self.calls + other.calls)
