"""Runs one partition of a step: reads its slice, calls the operator, writes its objects and a receipt.

Knows nothing of Ray. A worker process keeps one `Worker` for a job, so that models and connections are made once.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import logging
import random
import shutil
import tempfile
import traceback
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from engine.errors import EngineError
from engine.fingerprint.code import code_digest
from engine.jobs.heartbeat import Heartbeat
from engine.jobs.messages import Failure, Job, Partition, Receipt, Usage, checkpoints, count_attempt, stop_mark, write_receipt
from engine.llm.chat import Call, CallLog, current_log
from engine.llm.providers.response_body import whole_characters
from engine.llm.shared_service import Link
from engine.llm.types.refresh import refresh
from engine.llm.types.requests import BudgetError, EndpointError, ModelError, RequestError, StoppedError
from engine.operator.catalogue import catalogue
from engine.operator.context import Context, Reject, Tally
from engine.operator.declaration import Operator
from engine.operator.tables import Grouped, Table
from engine.provenance import RowRef, sources_of
from engine.worker.attachments import FileCollector
from engine.worker.inputs import read_slice, read_whole
from engine.worker.models import Models, usage
from engine.worker.output_writer import OutputRow, OutputWriter
from registry import Record, Registry

_WATCH_SECONDS = 0.5
_REASON = 1000
_OF_CODE = (NameError, ImportError, NotImplementedError, AssertionError, SyntaxError, MemoryError, OSError)
"""What an operator raises for reasons of its own, whatever a model wrote."""
MOST_DEATHS = 3
"""Ray replaces a worker that died and begins its partitions again; after so many deaths it is taken to be their fault."""


class OperatorError(Exception):
    """An operator raised, or yielded something that it did not declare."""


@dataclass
class RowResult:
    """What became of one input row: rows for the outputs, or a reason for its rejection, or an error of the step.

    `partial` has reasons why not all came of it that was to (`ctx.reject`), `tally` the numbers that the operator reported.
    """

    emitted: list[OutputRow] = field(default_factory=list)
    rejected: str | None = None
    partial: list[str] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    error: Exception | None = None
    log: CallLog = field(default_factory=CallLog)

    @property
    def reasons(self) -> list[str]:
        """All that stands in `rejects` for this row."""
        return self.partial if self.rejected is None else [self.rejected]


class Worker:
    """Runs partitions of one job; several may be under way on one event loop.

    When a row fails the step, no further request is sent and no further partition begins; requests under way come to
    their end, so that their answers, which are paid for, reach the journal.

    Args:
        job: what the partitions share.
        link, name, far: see Models.
    """

    def __init__(self, job: Job, link: Link | None = None, name: str | None = None, *, far: bool = False) -> None:
        self.job = job
        self.registry = Registry(job.registry)
        known = catalogue()
        declared = known.operators[job.operator]
        named = {port: known.records[name] for port, name in job.types.items() if declared.inputs[port].open}
        self.operator: Operator = declared.typed(named)
        self._settings = self.operator.arguments(self.operator.params.model_validate(job.params))
        self.log = _file_log(self.registry.root / "runs" / f"{job.run_id}.log", f"{job.pipeline}/{job.step}")
        self.pulse = Heartbeat(self.registry.receipts / job.step_key)
        self.models = Models(job, self.registry, link, name, far=far)
        self._asked: dict[str, Any] | None = None
        self._mark = stop_mark(self.registry.receipts, job.step_key)
        self._watching: asyncio.Task[None] | None = None
        self._tables: dict[str, Table[Any]] = {}

    async def run(self, part: Partition) -> Receipt | Failure:
        """Run a partition; what goes wrong comes back as a Failure, not as an exception, so that Ray does not retry it."""
        if self._mark.exists():
            return Failure(partition=part, message="stopped", stopped=True)
        if self._watching is None and self.job.models:
            self._watching = asyncio.create_task(self._watch())
        try:
            if count_attempt(self.registry.receipts, self.job.step_key, part) >= MOST_DEATHS:
                raise EngineError(
                    f"a worker process died {MOST_DEATHS} times at rows {part.start} to {part.stop - 1}: out of memory, or a "
                    "crash in native code. Ask for more memory, or look at those rows"
                )
            self._same_code()
            result = await self._run(part)
            if isinstance(result, Receipt):
                result = result.model_copy(
                    update={"spent": self.models.spent(), "notes": (*self.models.notes(), *result.notes)}
                )
                await asyncio.to_thread(write_receipt, self.registry.receipts, self.job.step_key, result)
            return result
        except Exception as error:
            return self._failure(part, error)

    async def _watch(self) -> None:
        """Send no further request once the step is to stop, because another worker failed or the user said so."""
        while not self._mark.exists():
            await asyncio.sleep(_WATCH_SECONDS)
            self.pulse.say(self.models.waiting())
        self._stop()

    def _same_code(self) -> None:
        if code_digest(self.job.operator) != self.job.code:
            raise EngineError(
                f"the code of operator {self.job.operator!r} (or the version of a package it uses) is not the same here as "
                "where the run was started; if it was edited just now, run again"
            )

    def _failure(self, part: Partition, error: Exception, logs: Sequence[CallLog] = ()) -> Failure:
        self._stop()
        told = isinstance(error, OperatorError | EngineError | ModelError)
        message = str(error) if told else f"{type(error).__name__}: {error}"
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            message = f"there is no room left for {self.registry.where}: {error.strerror}. Make room and run again"
        trace = "".join(traceback.format_exception(error))
        made = sum(map(usage, logs), Usage())
        stopped = isinstance(error, StoppedError)
        return Failure(partition=part, message=message, traceback=trace, stopped=stopped, usage=made, spent=self.models.spent())

    def _stop(self) -> None:
        self.models.stop(StoppedError("the step has failed"))

    # -- the three shapes ---------------------------------------------------------------------------------------

    async def _run(self, part: Partition) -> Receipt | Failure:
        tally = Tally()
        keeper = FileCollector(self.registry)
        scratch = Path(tempfile.mkdtemp(prefix="engine-"))
        try:
            make_context = partial(self._context, keeper, scratch)
            if self.operator.shape == "row":
                result = await self._rows(part, make_context, tally)
            elif self.operator.shape == "batch":
                result = self._batch(part, partial(make_context, tally))
            else:
                result = await self._whole(part, partial(make_context, tally), tally)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        if isinstance(result, Failure):
            return result
        counts, values = tally.metrics()
        return result.model_copy(
            update={"counts": (*result.counts, *counts), "values": values, "attachments": tuple(keeper.kept)}
            | {"notes": tuple(dict.fromkeys(tally.notes))}
        )

    async def _rows(self, part: Partition, make_context: Any, tally: Tally) -> Receipt | Failure:
        [stream] = [name for name, port in self.operator.inputs.items() if not port.whole]
        record = self.operator.inputs[stream].record
        whole = {name: self._whole_input(name) for name, port in self.operator.inputs.items() if port.whole}
        records = record.from_table(self._slice(stream, part))
        rows = [self._row(stream, row, part.start + place, whole, make_context) for place, row in enumerate(records)]
        results = await asyncio.gather(*rows)
        errors = [result.error for result in results if result.error]
        if errors:
            return self._failure(part, _main_error(errors), [result.log for result in results])
        for result in results:
            tally.add(result.tally)
        # In a thread: what it waits for the disk, other rows' answers do not wait.
        return await asyncio.to_thread(self._written, part, stream, results)

    def _written(self, part: Partition, stream: str, results: Sequence[RowResult]) -> Receipt:
        writer = self._writer()
        led = sum(
            writer.row(RowRef(stream, part.start + place), result.emitted, result.reasons, result.log)
            for place, result in enumerate(results)
        )
        rejected = sum(result.rejected is not None for result in results)
        filtered = len(results) - led - rejected
        made = sum((usage(result.log) for result in results), Usage())
        return writer.receipt(part, led=led, filtered=filtered, rejected=rejected, usage=made)

    async def _row(
        self, stream: str, record: Record, number: int, whole: dict[str, Table[Any] | None], make_context: Any
    ) -> RowResult:
        # Seeded by content, not by place: moving a row, or adding one before it, changes no other row's draws.
        seed = _seed(self.job.seed, self.operator.name, record.model_dump()) if self.operator.context else 0
        arguments: dict[str, Any] = {stream: record, **whole, **self._settings, **self._roles}
        result = await self._attempt(arguments, seed, f"row {number} of {stream!r}", make_context)
        if self.job.retry_rejects and result.rejected is not None and result.log.calls and not result.log.asked:
            # Answers in the journal led to the reject once more.
            refresh.set(True)
            first, result = result, await self._attempt(arguments, seed, f"row {number} of {stream!r}", make_context)
            result.log.calls[:0] = first.log.calls
        if result.error:
            self._stop()
        self.pulse.beat()
        return result

    async def _attempt(self, arguments: dict[str, Any], seed: int, where: str, make_context: Any) -> RowResult:
        """Call the operator for a row."""
        result = RowResult()
        current_log.set(result.log)
        if self.operator.context:
            arguments = {**arguments, self.operator.context: make_context(result.tally, seed, result.partial)}
        try:
            async for item in self.operator.function(**arguments):
                # Which of the calls made so far a row came from cannot be told from outside: none is left out, unless
                # the operator names them.
                result.emitted.append(self._declared(item, where, tuple(result.log.calls)))
        except (Reject, RequestError) as error:
            # A row is rejected as a whole; what it had yielded is not kept.
            result.emitted, result.rejected = [], str(error)
        except (ModelError, OperatorError, EngineError) as error:
            result.error = error
        except Exception as error:
            said = f"operator {self.operator.name} raised {type(error).__name__} on {where}: {error}"
            if result.log.calls and not isinstance(error, _OF_CODE):
                # What a model wrote may be the cause, and is in the journal: the row fails, and not every run from now on.
                self.log.warning(said, exc_info=error)
                result.emitted, result.rejected = [], whole_characters(f"{said[:_REASON]} (after a model's answer)")
                return result
            result.error = OperatorError(said)
            result.error.__cause__ = error
        return result

    def _batch(self, part: Partition, make_context: Any) -> Receipt:
        [stream] = [name for name, port in self.operator.inputs.items() if not port.whole]
        table = self._slice(stream, part)
        numbered = table.add_column(0, "_row", pa.array(range(part.start, part.stop), pa.int64()))
        arguments: dict[str, Any] = {stream: numbered, **self._settings, **self._roles}
        arguments |= {name: self._whole_input(name) for name, port in self.operator.inputs.items() if port.whole}
        if self.operator.context:
            arguments[self.operator.context] = make_context(_seed(self.job.seed, self.operator.name, part.start))
        result = self.operator.function(**arguments)
        if not isinstance(result, pa.Table):
            raise OperatorError(f"operator {self.operator.name} works on batches and must return an Arrow table")
        [output] = self.operator.outputs
        origins = result.column("_row").to_pylist() if "_row" in result.schema.names else [[]] * result.num_rows
        try:
            rows = list(self.operator.outputs[output].from_table(result))
        except ValidationError as error:
            raise OperatorError(f"operator {self.operator.name} returned rows that are no {output}: {error}") from error
        writer = self._writer()
        # A null, as a join leaves it, is a row of unknown origin.
        named = [each if isinstance(each, list) else [each] for each in origins]
        sources = [[RowRef(stream, row) for row in each if row is not None] for each in named]
        writer.free([OutputRow(output, row, tuple(refs)) for row, refs in zip(rows, sources, strict=True)], CallLog())
        known = writer.led(stream)
        led = table.num_rows if known is None else len(known)
        return writer.receipt(part, led=led, filtered=table.num_rows - led, rejected=0)

    async def _whole(self, part: Partition, make_context: Any, tally: Tally) -> Receipt:
        log = CallLog()
        current_log.set(log)
        given = {name: self._whole_input(name) for name in self.operator.inputs}
        arguments: dict[str, Any] = {**given, **self._settings, **self._roles}
        if self.operator.context:
            arguments[self.operator.context] = make_context(_seed(self.job.seed, self.operator.name))
        emitted: list[OutputRow] = []
        try:
            async for item in _any_generator(self.operator.function(**arguments)):
                emitted.append(self._declared(item, "its inputs"))
        except (Reject, RequestError) as error:
            raise OperatorError(f"operator {self.operator.name}: {error}") from error
        except (ModelError, OperatorError, EngineError):
            raise
        except Exception as error:
            raise OperatorError(f"operator {self.operator.name} raised {type(error).__name__}: {error}") from error
        writer = self._writer()
        writer.free(emitted, log)
        writer.exposed(tally.seen)
        tables = {name: table for name, table in given.items() if table is not None}
        led = unused = 0
        for name, table in tables.items():
            known = writer.led(name)
            rows = len(table) if known is None else len(known)
            led += rows
            never = sum(times == 0 for ref, times in tally.seen.items() if ref.port == name)
            unused += len(table) - rows if self.operator.inputs[name].lookup else min(never, len(table) - rows)
        filtered = part.stop - led - unused
        return writer.receipt(part, led=led, filtered=filtered, rejected=0, unused=unused, usage=usage(log))

    @property
    def _roles(self) -> dict[str, Any]:
        """The models by argument; None for roles that the parameters leave out."""
        if self._asked is None:
            self._asked = {role: self.models.role(role) for role in self.operator.roles}
        return self._asked

    # -- what operators are given -------------------------------------------------------------------------------

    def _declared(self, item: Any, where: str, calls: tuple[Call, ...] = ()) -> OutputRow:
        """Check what an operator yielded against what it declared, and validate the record anew."""
        outputs = self.operator.outputs
        output, row = item if isinstance(item, tuple) and len(item) == 2 else (next(iter(outputs)), item)
        if item is row and len(outputs) > 1:
            names = ", ".join(outputs)
            raise OperatorError(f"operator {self.operator.name} has outputs {names} and must yield (output, record)")
        if output not in outputs or output in self.operator.finished_outputs:
            names = ", ".join(each for each in outputs if each not in self.operator.finished_outputs)
            raise OperatorError(f"operator {self.operator.name} yielded to {output!r}; its outputs are {names}")
        declared = outputs[output]
        if not isinstance(row, declared):
            given = type(row).__name__
            raise OperatorError(
                f"operator {self.operator.name} yielded a {given} to {output!r}, which is {declared.type_name()}"
            )
        try:
            return OutputRow(
                output, declared.model_validate(row.model_dump(), by_name=True, by_alias=False), sources_of(row), calls
            )
        except ValidationError as error:
            raise OperatorError(
                f"operator {self.operator.name} made an invalid {declared.type_name()} from {where}: {error}"
            ) from error

    def _context(
        self, keeper: FileCollector, scratch: Path, tally: Tally, seed: int, rejects: list[str] | None = None
    ) -> Context:
        draws = random.Random(seed)
        lasting = checkpoints(self.registry.receipts, self.job.step_key)
        if rejects is None:
            rejects = _NoRow()
        return Context(
            draws,
            self.log,
            seed % 2**31,
            self.job.device,
            scratch,
            lasting,
            tally,
            keeper,
            self.pulse.show,
            rejects,
        )

    def _writer(self) -> OutputWriter:
        return OutputWriter(self.registry.store, self.operator, self.job.inputs, self.job.excluded)

    def _slice(self, port: str, part: Partition) -> pa.Table:
        return read_slice(self.registry.location, self.job.inputs[port], self.operator.inputs[port].record, part)

    def _whole_input(self, port: str) -> Table[Any] | None:
        if port not in self.job.inputs:
            return None  # the pipeline leaves it out
        if port not in self._tables:
            record = self.operator.inputs[port].record
            arrow = read_whole(self.registry.store, self.job.inputs[port], record)
            table = self.operator.inputs[port].table or Table
            groups = (self.job.families.get(port, ()),) if issubclass(table, Grouped) else ()
            self._tables[port] = table(record, arrow, port, *groups)
        return self._tables[port]


class _NoRow(list[str]):
    """Where an operator that is not called for a row would put its reasons."""

    def append(self, reason: str) -> None:
        raise EngineError(f"ctx.reject is for operators on rows; there is no row here to reject something of: {reason}")


def _file_log(file: Path, name: str) -> logging.Logger:
    """A logger that appends to the run's log file; workers of a cluster share it line by line."""
    log = logging.getLogger(f"engine.operators.{name}")
    log.propagate = False
    if not log.handlers:
        file.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(file, delay=True)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
    return log


def _seed(*parts: Any) -> int:
    # repr, because JSON has no bytes and no infinity.
    return int(hashlib.sha256(repr(parts).encode()).hexdigest()[:16], 16)


async def _any_generator(result: Any) -> AsyncIterator[Any]:
    if hasattr(result, "__aiter__"):
        async for item in result:
            yield item
    else:
        for item in result:
            yield item


def _main_error(errors: Sequence[Exception]) -> Exception:
    """Of errors of several rows the one that says most: an endpoint's or a budget's before an operator's before others."""
    order: tuple[type[Exception], ...] = (EndpointError, BudgetError, OperatorError, EngineError)
    for kind in order:
        for error in errors:
            if isinstance(error, kind):
                return error
    return errors[0]
