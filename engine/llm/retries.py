"""When a failed request is sent again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from tenacity import RetryCallState

from engine.llm.limits.outage import PATIENCE_SECONDS
from engine.llm.types.errors import TransientError
from engine.llm.types.model_spec import ModelSpec

_CAP_SECONDS, _MOST_RETRY_AFTER = 60.0, 600.0
_CAP_SECONDS_DOWN = 15.0


class RetryPolicy:
    """When to give up on a request: after `retries` further tries.

    A 429 is no try of this request's as long as others are answered: the server is busy, not broken. Trouble of the
    endpoint is none as long as nobody is answered, for as long as an outage may last: see Outage.
    """

    def __init__(self, spec: ModelSpec, answered: Callable[[], int]) -> None:
        self._spec = spec
        self._count_answered = answered
        self._answered = answered()
        self._since: float | None = None
        self.counted = 0

    def is_used_up(self, state: RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome else None
        before, self._answered = self._answered, self._count_answered()
        progress = self._answered > before
        self.counted += not (isinstance(error, TransientError) and self._is_excused(error, progress))
        return self.counted > self._spec.retries

    def _is_excused(self, error: TransientError, progress: bool) -> bool:
        if self._spec.mode == "batch":
            return error.differently
        now = time.monotonic()
        self._since = now if self._since is None or progress else self._since
        if error.unreachable:
            return True  # the gate gives up, for all
        if error.down:
            patience = self._spec.limits.patience
            unset = PATIENCE_SECONDS if self._answered else 0.0
            return not progress and now - self._since < (unset if patience is None else patience)
        return error.differently or (error.throttled and progress)


def seconds_to_wait(state: RetryCallState) -> float:
    """The server's Retry-After when it gave one, with full jitter on an exponential ceiling otherwise."""
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, TransientError) and (error.differently or error.unreachable):
        return 0.0  # in an outage the gate says when
    if isinstance(error, TransientError) and error.retry_after is not None:
        return min(error.retry_after, _MOST_RETRY_AFTER) + random.uniform(0, 0.1)
    cap = _CAP_SECONDS_DOWN if isinstance(error, TransientError) and error.down else _CAP_SECONDS
    return random.uniform(0, min(cap, 0.5 * 2 ** min(state.attempt_number, 10)))
