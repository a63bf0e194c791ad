"""Pauses between calls to the Batch API, and how long to keep calling."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator

from engine.llm.types.errors import EndpointError, TransientError

POLL_SECONDS, MOST_POLL_SECONDS = 1.0, 60.0
"""The first and the longest pause between two checks of a batch, or two attempts at a call. Each pause is 1.5 times as long
as the one before. ENGINE_BATCH_POLL_SECONDS in the environment sets all of them, for tests."""

PATIENCE_SECONDS = 6 * 3600.0
"""How long a server may be unavailable while a batch is open."""


class Patience:
    """Pauses between attempts at a call, until PATIENCE_SECONDS are over."""

    def __init__(self) -> None:
        self._waits = pauses()
        self._until = time.monotonic() + PATIENCE_SECONDS

    async def wait(self, error: TransientError) -> None:
        """Pause; raises EndpointError if the trouble has lasted too long."""
        if time.monotonic() > self._until:
            detail = f"for {PATIENCE_SECONDS / 3600:g} hours; open batches are not lost: run again"
            raise EndpointError(f"{error} ({detail})") from error
        await asyncio.sleep(max(next(self._waits), min(error.retry_after or 0.0, MOST_POLL_SECONDS)))


def pauses() -> Iterator[float]:
    """Seconds to wait, increasing."""
    fixed = os.environ.get("ENGINE_BATCH_POLL_SECONDS")
    pause = float(fixed) if fixed else POLL_SECONDS
    while True:
        yield pause
        pause = pause if fixed else min(MOST_POLL_SECONDS, 1.5 * pause)
