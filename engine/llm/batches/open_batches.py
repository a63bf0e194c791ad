"""Batches that are on the server, noted in the journal so that they survive a restart; and who may create one.

Before a batch is created, a note with its uploaded input file goes into the journal. If creation is interrupted, the batch
is found on the server by that file. The note is deleted once all answers are durable.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import time
import uuid
from collections.abc import Collection, Sequence
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict

from engine.llm.batches.polling import pauses
from engine.llm.journal.answers import Answers
from engine.llm.types.model_spec import ModelSpec
from engine.llm.types.tools import Tools
from registry.counted import counted
from registry.storage.processes import start_time

CLAIM_SECONDS = 600.0
"""A process on another machine that claims a batch and has not renewed its claim for longer counts as dead."""


class OpenBatch(BaseModel):
    """A note in the journal: a batch on the server, or (without `batch`) one that is about to be created.

    Args:
        file: the input file's id on the server; a name of its own where requests travel with the batch.
        since: the time of the upload, in seconds since 1970.
        newest: the newest batch on the server at that time, where batches have no input file.
        keys: the keys of its requests.
        logprobs: the keys of the requests that ask for log-probabilities.
        tools: the keys of the requests that offer tools.
        again: the keys of the requests whose answer in the journal will be replaced.
        left_out: by key, the parameters that a request should have but that were not sent.
        batch: the batch's id on the server.
    """

    model_config = ConfigDict(frozen=True)

    file: str
    since: float
    keys: tuple[str, ...]
    logprobs: frozenset[str] = frozenset()
    tools: frozenset[str] = frozenset()
    again: frozenset[str] = frozenset()
    left_out: dict[str, tuple[str, ...]] = {}
    newest: str = ""
    batch: str | None = None

    def tools_of(self, key: str) -> Tools:
        """A placeholder for the tools that a request offers: the note does not say which."""
        return ({},) if key in self.tools else ()


class OpenBatches:
    """The notes about a model's open batches.

    Args:
        spec: the model.
        answers: the journal.
    """

    def __init__(self, spec: ModelSpec, answers: Answers) -> None:
        self._endpoint = f"batch {spec.endpoint} "
        self._prefix = f"{self._endpoint}{spec.model} "
        self._answers = answers
        self._checked: set[str] = set()

    async def all(self) -> list[OpenBatch]:
        """All open batches, also those of other processes and earlier runs."""
        return [OpenBatch.model_validate_json(text) for text in (await self._answers.notes(self._prefix)).values()]

    async def find(self, file: str) -> OpenBatch | None:
        """The open batch of an input file."""
        return next((each for each in await self.all() if each.file == file), None)

    async def taken(self, file: str) -> set[str]:
        """The endpoint's batches that belong to other notes, of any model."""
        noted = [OpenBatch.model_validate_json(text) for text in (await self._answers.notes(self._endpoint)).values()]
        return {each.batch for each in noted if each.batch and each.file != file}

    async def note(self, batch: OpenBatch) -> None:
        """Write a batch's note."""
        await self._answers.note(self._prefix + batch.file, batch.model_dump_json())

    async def forget(self, batch: OpenBatch) -> None:
        """Delete a batch's note."""
        await self._answers.note(self._prefix + batch.file, None)

    async def forget_answered(self, noted: Sequence[OpenBatch], following: Collection[str]) -> None:
        """Delete the notes of batches whose answers are all in the journal: a process died before it could do so.

        Args:
            noted: the open batches that are noted.
            following: input files of the batches that this process is waiting for.
        """
        for each in noted:
            if each.file in self._checked or each.file in following or not each.batch or each.again:
                continue
            self._checked.add(each.file)
            answers = [await self._answers.get(key) for key in each.keys]
            if all(answer is not None for answer in answers):
                await self.forget(each)

    def advice(self, batch: OpenBatch) -> str:
        """What to do about a batch that cannot be collected now."""
        since = datetime.fromtimestamp(batch.since, UTC).strftime("%Y-%m-%d %H:%M UTC")
        name = batch.batch or f"of {batch.file}"
        return (
            f"batch {name} of {since} with {counted(batch.keys, 'request')} is not lost: fix the problem and run again. If it "
            "no longer exists on the server, delete it from the journal (answers.sqlite): "
            f"delete from notes where name = '{self._prefix}{batch.file}'"
        )


class Claim:
    """The right to create the batch of an input file. If several processes find it not created, one at a time has the right.

    Each process notes its claim and then looks for other claims; if it sees one, it withdraws for a moment. The claim of a
    dead process does not count: on this machine at once, on others when it was not renewed for `seconds`.
    """

    def __init__(self, answers: Answers, file: str, seconds: float) -> None:
        self._answers = answers
        self._prefix = f"claim {file} "
        self._name = self._prefix + uuid.uuid4().hex
        self._seconds = seconds

    async def renew(self) -> bool:
        """Renew the claim. Returns whether no other living process has one."""
        mine = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "at": time.time()})
        await self._answers.note(self._name, mine)
        claims = await self._answers.notes(self._prefix)
        others = [name for name in claims if name != self._name]
        dead = [name for name in others if self._is_dead(**json.loads(claims[name]))]
        for name in dead:
            await self._answers.note(name, None)
        return len(dead) == len(others)

    async def withdraw(self) -> None:
        """Release the claim and wait a few seconds, so that another process can claim first."""
        await self.release()
        await asyncio.sleep(random.uniform(0.5, 1.5) * next(pauses()))

    async def release(self) -> None:
        """Give the claim up."""
        await self._answers.note(self._name, None)

    def _is_dead(self, host: str, pid: int, at: float) -> bool:
        if host == socket.gethostname() and start_time(pid) is None:
            return True
        return time.time() - at > self._seconds
