"""Outstanding."""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import time
import uuid

from engine.llm.journal.answers import Answers
from engine.llm.providers.polling import pauses

CLAIM_SECONDS = 600.0
"""A process on another machine that is about to create a batch, and has not said so for longer, is dead."""


class Claim:
    """The right to create the batch of an input file: of several processes that find it not created, one at a time has it.

    Each notes its claim and then looks for those of others; whoever sees one withdraws for a moment. The claim of a dead
    process counts no more: on this machine at once, on others when it was not renewed for `seconds`.
    """

    def __init__(self, answers: Answers, file: str, seconds: float) -> None:
        self._answers = answers
        self._prefix = f"claim {file} "
        self._name = self._prefix + uuid.uuid4().hex
        self._seconds = seconds

    async def alone(self) -> bool:
        """Renew the claim; whether no other living process has one."""
        mine = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "at": time.time()})
        await self._answers.note(self._name, mine)
        claims = await self._answers.notes(self._prefix)
        others = [name for name in claims if name != self._name]
        dead = [name for name in others if self._is_dead(**json.loads(claims[name]))]
        for name in dead:
            await self._answers.note(name, None)
        return len(dead) == len(others)

    async def withdraw(self) -> None:
        """Let another go first."""
        await self.release()
        await asyncio.sleep(random.uniform(0.5, 1.5) * next(pauses()))

    async def release(self) -> None:
        """Give the claim up."""
        await self._answers.note(self._name, None)

    def _is_dead(self, host: str, pid: int, at: float) -> bool:
        if host == socket.gethostname():
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                return True
            except PermissionError:
                pass
        return time.time() - at > self._seconds
