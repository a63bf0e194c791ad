"""Polling."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator

from engine.llm.types.errors import EndpointError, TransientError

POLL_SECONDS, MOST_POLL_SECONDS = 1.0, 60.0
"""The first pause between two looks at a batch, or two tries of a call, and the longest; each is half as long again as the
one before. ENGINE_BATCH_POLL_SECONDS in the environment, for tests, makes all of them so long."""

PATIENCE_SECONDS = 6 * 3600.0
"""For so long a server may be away while a batch is out."""


class Patience:
    """Pauses between tries of a call, until PATIENCE_SECONDS are over."""

    def __init__(self) -> None:
        self._waits = pauses()
        self._until = time.monotonic() + PATIENCE_SECONDS

    async def wait(self, error: TransientError) -> None:
        """Pause; raises EndpointError when it has lasted too long."""
        if time.monotonic() > self._until:
            said = f"for {PATIENCE_SECONDS / 3600:g} hours; what is out is not lost: run again"
            raise EndpointError(f"{error} ({said})") from error
        await asyncio.sleep(max(next(self._waits), min(error.retry_after or 0.0, MOST_POLL_SECONDS)))


def pauses() -> Iterator[float]:
    """Seconds to wait, longer and longer."""
    fixed = os.environ.get("ENGINE_BATCH_POLL_SECONDS")
    pause = float(fixed) if fixed else POLL_SECONDS
    while True:
        yield pause
        pause = pause if fixed else min(MOST_POLL_SECONDS, 1.5 * pause)
