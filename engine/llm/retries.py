"""Whether and when a failed request is sent again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from engine.llm.limits.outage import PATIENCE_SECONDS
from engine.llm.types.errors import TransientError
from engine.llm.types.model_spec import ModelSpec

_CAP_SECONDS, _CAP_SECONDS_DOWN = 60.0, 15.0
"""The longest pause between two attempts; the second while the endpoint is in trouble."""
_MOST_RETRY_AFTER = 600.0
"""A server that asks for a longer pause gets this one."""


class RetryPolicy:
    """Gives up on a request after `retries` further attempts.

    A 429 does not count as an attempt while other requests succeed: the server is busy, not broken. Nor does a 429, or trouble
    with the endpoint, while no request succeeds, for as long as an outage may last: see Outage and Refusal.

    Args:
        spec: the model.
        answered: returns how many requests the model has answered here.
    """

    def __init__(self, spec: ModelSpec, answered: Callable[[], int]) -> None:
        self._spec = spec
        self._count_answered = answered
        self._answered = answered()
        self._since: float | None = None
        self.counted = 0

    def is_exhausted(self, error: TransientError) -> bool:
        """Record a failed attempt; whether it was the last one."""
        before, self._answered = self._answered, self._count_answered()
        progress = self._answered > before
        self.counted += not self._is_excused(error, progress)
        return self.counted > self._spec.retries

    def _is_excused(self, error: TransientError, progress: bool) -> bool:
        if self._spec.mode == "batch":
            return error.adapted
        now = time.monotonic()
        self._since = now if self._since is None or progress else self._since
        if error.unreachable:
            return True  # the gate gives up, for all requests
        patience = self._spec.limits.patience
        if error.down:
            unset = PATIENCE_SECONDS if self._answered else 0.0
            return not progress and now - self._since < (unset if patience is None else patience)
        if error.throttled:
            return progress or now - self._since < (PATIENCE_SECONDS if patience is None else patience)
        return error.adapted


def seconds_to_wait(error: TransientError, attempts: int) -> float:
    """The server's Retry-After if it sent one; otherwise exponential back-off with full jitter."""
    if error.adapted or error.unreachable:
        return 0.0  # in an outage the gate decides when
    if error.retry_after is not None:
        return min(error.retry_after, _MOST_RETRY_AFTER) + random.uniform(0, 0.1)
    cap = _CAP_SECONDS_DOWN if error.down else _CAP_SECONDS
    return random.uniform(0, min(cap, 0.5 * 2 ** min(attempts, 10)))
