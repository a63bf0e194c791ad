"""Runs partitions of a step: calls its operator, writes its objects and receipts.

It does not depend on Ray.
"""

from __future__ import annotations

import asyncio
import errno
import traceback

from engine.errors import EngineError
from engine.fingerprint.code import code_digest, code_of
from engine.jobs.messages import Failure, Job, Partition, Receipt, Usage
from engine.llm.types.errors import ModelError, StoppedError
from engine.worker.attachments import FileCollector
from engine.worker.models import Models
from engine.worker.operation import Operation, Scope, Write
from engine.worker.row_results import OperatorError
from engine.worker.shapes.batches import run_batch
from engine.worker.shapes.rows import FailedRowsError, run_rows
from engine.worker.shapes.whole import run_whole
from engine.worker.shared_models import SharedModels
from registry import Registry
from registry.storage.valid_text import repaired

_WATCH_SECONDS = 0.5
_NAMED = 5
"""The most files that an error names."""


class Worker:
    """Runs partitions of one step; several may be in progress on one event loop.

    When a row fails the step, no more requests are sent and no more partitions start. Requests in flight finish, so that
    their answers, which are paid for, reach the journal.

    Args:
        job: the job, which the partitions share.
        registry: the registry of the job.
        shared: the models that the steps in this process share.
    """

    def __init__(self, job: Job, registry: Registry, shared: SharedModels) -> None:
        self.job = job
        self.registry = registry
        self.models = Models(job, shared)
        self.operation = Operation(job, registry, self.models)
        self._receipts = self.operation.receipts
        self._stopped = False
        self._watching: asyncio.Task[None] | None = None

    async def run(self, part: Partition) -> Receipt | Failure:
        """Run a partition. Errors are returned as a Failure, not raised, so that Ray does not retry."""
        if self._stopped:
            return Failure(digest=part.digest, message="stopped", stopped=True)
        if self._watching is None and self.job.models:
            self._watching = asyncio.create_task(self._watch())
        try:
            self._same_code()
            # The driver removes old receipts. This one was written by a process that died before it could report it.
            if finished := self._receipts.read(part.digest):
                return finished
            return await self._run(part)
        except FailedRowsError as failed:
            return self._failure(part, failed.cause, failed.usage)
        except Exception as error:
            return self._failure(part, error)

    def stop(self) -> None:
        """Send no more requests and start no more partitions: the step has failed, or the user has interrupted the run."""
        self._stopped = True
        self.models.stop(StoppedError("the step has failed"))

    def close(self) -> None:
        """Stop the background task."""
        if self._watching:
            self._watching.cancel()

    async def _run(self, part: Partition) -> Receipt:
        scope = Scope(FileCollector(self.registry))
        try:
            if self.operation.operator.shape == "row":
                write = await run_rows(self.operation, part, scope, self.stop)
            elif self.operation.operator.shape == "batch":
                write = run_batch(self.operation, part, scope)
            else:
                write = await run_whole(self.operation, part, scope)
        finally:
            scope.clear()
        self._same_code()  # again, for files that it names
        # In a thread, so that other rows, and other rows' answers, do not wait for the disk.
        return await asyncio.to_thread(self._written, write, scope)

    def _written(self, write: Write, scope: Scope) -> Receipt:
        receipt = write()
        counts, values = scope.tally.metrics()
        notes = (*self.models.notes(), *dict.fromkeys(scope.tally.notes))
        more = {"counts": (*receipt.counts, *counts), "values": values, "attachments": tuple(scope.files.kept), "notes": notes}
        receipt = receipt.model_copy(update=more)
        self._receipts.write(receipt)
        return receipt

    async def _watch(self) -> None:
        """Show what the rows are waiting for."""
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            self.operation.heartbeat.note(self.models.waiting())

    def _same_code(self) -> None:
        if code_digest(self.job.operator) != self.job.code:
            places = code_of(self.job.operator).files
            files = sorted({file.name for file in places if file.suffix != ".py" and not file.is_dir()})
            named, advice = "", "If you have just edited it, run again"
            if files:
                named = f", a file that it names ({', '.join(files[:_NAMED])}{', ...' if len(files) > _NAMED else ''})"
                advice += ". If the operator writes the file, build its path inside the function: files in constants are inputs"
            raise EngineError(
                f"the code of operator {self.job.operator!r}{named}, or the version of a package it uses, differs between this "
                f"worker and the process that started the run. {advice}"
            )

    def _failure(self, part: Partition, error: Exception, usage: Usage | None = None) -> Failure:
        self.stop()
        message = str(error) if isinstance(error, OperatorError | EngineError | ModelError) else _named(error)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            message = f"no space left in {self.registry.where}: {error.strerror}. Free some space and run again"
        return Failure(
            digest=part.digest,
            message=repaired(message),
            traceback=repaired("".join(traceback.format_exception(error))),
            stopped=isinstance(error, StoppedError),
            usage=usage or Usage(),
        )


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
