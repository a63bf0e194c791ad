"""Runs one partition of a step: reads its slice, calls the operator, writes its objects and a receipt.

Knows nothing of Ray. A worker process keeps one `Worker` for a job, so that models and connections are made once.
"""

from __future__ import annotations

import asyncio
import logging
import random
import shutil
import tempfile
import traceback
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from engine.context import Context, Reject, Tally
from engine.emit import Emitted, OutputWriter
from engine.job import Failure, InputPart, Job, ModelBinding, Partition, Receipt, Usage, write_receipt
from engine.llm.base import BudgetError, EndpointError, Provider, RequestError
from engine.llm.client import CallLog, ChatModel, current_log
from engine.llm.journal import Journal
from engine.llm.limits import Gate
from engine.llm.weights import Weights, materialise
from engine.operator import Operator, Table
from engine.operators import catalogue
from engine.problems import EngineError
from engine.pulse import Pulse
from registry import DataObject, Record, Registry, StoredFile
from registry.store import json_digest


class OperatorError(Exception):
    """An operator raised, or yielded something that it did not declare."""


@dataclass
class RowResult:
    """What became of one input row."""

    emitted: list[Emitted] = field(default_factory=list)
    rejected: str | None = None
    log: CallLog = field(default_factory=CallLog)


class Worker:
    """Runs partitions of one job; several may be under way on one event loop."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.registry = Registry(job.registry)
        self.operator: Operator = catalogue().operators[job.operator]
        self.params = self.operator.params.model_validate(job.params)
        self.log = _file_log(self.registry.root / "runs" / f"{job.run_id}.log", f"{job.pipeline}/{job.step}")
        self.pulse = Pulse(self.registry.receipts / job.step_key)
        self._models: dict[str, ChatModel] | None = None
        self._journal: Journal | None = None
        self._tables: dict[str, Table[Any]] = {}

    async def run(self, part: Partition) -> Receipt | Failure:
        """Run a partition; what goes wrong comes back as a Failure, not as an exception, so that Ray does not retry it."""
        try:
            receipt = await self._run(part)
        except Exception as group:
            error = _main_error(group)
            trace = "".join(traceback.format_exception(error))
            if isinstance(error, BudgetError):
                return Failure(partition=part, kind="budget", message=str(error), traceback=trace)
            if isinstance(error, EndpointError):
                return Failure(partition=part, kind="endpoint", message=str(error), traceback=trace)
            known = isinstance(error, OperatorError | EngineError)
            message = str(error) if known else f"{type(error).__name__}: {error}"
            return Failure(partition=part, kind="operator", message=message, traceback=trace)
        write_receipt(self.registry.receipts, self.job.step_key, receipt)
        return receipt

    async def close(self) -> None:
        """Let models and the journal go."""
        for model in (self._models or {}).values():
            await model.close()
        if self._journal:
            self._journal.close()

    # -- the three shapes ---------------------------------------------------------------------------------------

    async def _run(self, part: Partition) -> Receipt:
        tally = Tally()
        keeper = _Keeper(self.registry)
        scratch = Path(tempfile.mkdtemp(prefix="engine-"))
        try:
            make_context = partial(self._context, tally, keeper, scratch)
            if self.operator.shape == "row":
                receipt = await self._rows(part, make_context)
            elif self.operator.shape == "batch":
                receipt = self._batch(part, make_context)
            else:
                receipt = await self._whole(part, make_context)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        counts, values = tally.metrics()
        return receipt.model_copy(update={"counts": counts, "values": values, "attachments": tuple(keeper.kept)})

    async def _rows(self, part: Partition, make_context: Any) -> Receipt:
        [stream] = [name for name, port in self.operator.inputs.items() if not port.whole]
        record = self.operator.inputs[stream].record
        whole = {name: self._whole_input(name) for name, port in self.operator.inputs.items() if port.whole}
        writer = OutputWriter(self.registry.store, self.operator, self.job.inputs[stream])
        records = list(record.from_table(self._slice(stream, part)))
        async with asyncio.TaskGroup() as tasks:
            rows = [
                tasks.create_task(self._row(stream, row, part.start + place, whole, make_context))
                for place, row in enumerate(records)
            ]
        usage, spent = Usage(), dict[str, float]()
        led = filtered = rejected = 0
        for place, task in enumerate(rows):
            result = task.result()
            writer.row(part.start + place, result.emitted, result.rejected, result.log)
            led += bool(result.emitted)
            rejected += not result.emitted and result.rejected is not None
            filtered += not result.emitted and result.rejected is None
            usage += self._usage(result.log, spent)
        return writer.receipt(part, led=led, filtered=filtered, rejected=rejected, usage=usage, spent=spent)

    async def _row(
        self, stream: str, record: Record, number: int, whole: dict[str, Table[Any]], make_context: Any
    ) -> RowResult:
        result = RowResult()
        current_log.set(result.log)
        # Seeded by content, not by place: moving a row, or adding one before it, changes no other row's draws.
        seed = json_digest([self.job.seed, self.operator.name, record.model_dump(mode="json")])
        arguments: dict[str, Any] = {stream: record, **whole, **_settings(self.params)}
        if self.operator.context:
            arguments[self.operator.context] = make_context(seed)
        used = 0
        calls: list[Any] = []
        try:
            async for item in self.operator.function(**arguments):
                output, row = self._declared(item, f"row {number} of {stream}")
                # Calls since the last yield made this row; with none since, the same calls made it, too.
                if len(result.log.calls) > used:
                    calls, used = result.log.calls[used:], len(result.log.calls)
                result.emitted.append(Emitted(output, row, tuple(calls)))
        except (Reject, RequestError) as error:
            result.rejected = str(error)
        except (EndpointError, BudgetError, OperatorError, EngineError):
            raise
        except Exception as error:
            raise OperatorError(
                f"operator {self.operator.name} raised {type(error).__name__} on row {number} of {stream!r}: {error}"
            ) from error
        self.pulse.beat()
        return result

    def _batch(self, part: Partition, make_context: Any) -> Receipt:
        [stream] = [name for name, port in self.operator.inputs.items() if not port.whole]
        record = self.operator.inputs[stream].record
        table = self._slice(stream, part).select(record.arrow_schema().names)
        numbered = table.add_column(0, "_row", pa.array(range(part.start, part.stop), pa.int64()))
        arguments: dict[str, Any] = {stream: numbered, **_settings(self.params)}
        arguments |= {name: self._whole_input(name) for name, port in self.operator.inputs.items() if port.whole}
        if self.operator.context:
            arguments[self.operator.context] = make_context(json_digest([self.job.seed, self.operator.name, part.start]))
        result = self.operator.function(**arguments)
        if not isinstance(result, pa.Table):
            raise OperatorError(f"operator {self.operator.name} works on batches and must return an Arrow table")
        [output] = self.operator.outputs
        origins = result.column("_row").to_pylist() if "_row" in result.schema.names else None
        try:
            rows = list(self.operator.outputs[output].from_table(result))
        except ValidationError as error:
            raise OperatorError(f"operator {self.operator.name} returned rows that are no {output}: {error}") from error
        writer = OutputWriter(self.registry.store, self.operator, self.job.inputs[stream])
        writer.batch(output, rows, origins)
        led = len(set(origins)) if origins is not None else table.num_rows
        return writer.receipt(part, led=led, filtered=table.num_rows - led, rejected=0, opaque=origins is None)

    async def _whole(self, part: Partition, make_context: Any) -> Receipt:
        log = CallLog()
        current_log.set(log)
        tables = {name: self._whole_input(name) for name in self.operator.inputs}
        arguments: dict[str, Any] = {**tables, **_settings(self.params)}
        if self.operator.context:
            arguments[self.operator.context] = make_context(json_digest([self.job.seed, self.operator.name]))
        writer = OutputWriter(self.registry.store, self.operator, ())
        try:
            async for item in _any_generator(self.operator.function(**arguments)):
                output, row = self._declared(item, "its inputs")
                writer.batch(output, [row], None)
        except (Reject, RequestError) as error:
            raise OperatorError(f"operator {self.operator.name}: {error}") from error
        except (EndpointError, BudgetError, OperatorError, EngineError):
            raise
        except Exception as error:
            raise OperatorError(f"operator {self.operator.name} raised {type(error).__name__}: {error}") from error
        writer.loose_calls(log.calls)
        spent = dict[str, float]()
        usage = self._usage(log, spent)
        rows = sum(len(table) for table in tables.values())
        return writer.receipt(part, led=rows, filtered=0, rejected=0, opaque=True, usage=usage, spent=spent)

    # -- what operators are given -------------------------------------------------------------------------------

    def _declared(self, item: Any, where: str) -> tuple[str, Record]:
        """Check what an operator yielded against what it declared, and validate the record anew."""
        outputs = self.operator.outputs
        output, row = item if isinstance(item, tuple) and len(item) == 2 else (next(iter(outputs)), item)
        if item is row and len(outputs) > 1:
            names = ", ".join(outputs)
            raise OperatorError(f"operator {self.operator.name} has outputs {names} and must yield (output, record)")
        if output not in outputs:
            raise OperatorError(f"operator {self.operator.name} yielded to {output!r}; its outputs are {', '.join(outputs)}")
        declared = outputs[output]
        if not isinstance(row, declared):
            given = type(row).__name__
            raise OperatorError(
                f"operator {self.operator.name} yielded a {given} to {output!r}, which is {declared.type_name()}"
            )
        try:
            return output, declared.model_validate(row.model_dump())
        except ValidationError as error:
            raise OperatorError(
                f"operator {self.operator.name} made an invalid {declared.type_name()} from {where}: {error}"
            ) from error

    def _context(self, tally: Tally, keeper: _Keeper, scratch: Path, seed: str) -> Context:
        number = int(seed[:16], 16)
        return Context(self._bind_models(), random.Random(number), self.log, scratch, number % 2**31, tally, keeper, self.pulse)

    def _bind_models(self) -> dict[str, ChatModel]:
        if self._models is None:
            self._journal = Journal(self.registry.journal)
            self._models = {
                role: ChatModel(
                    role,
                    binding.spec,
                    binding.identity,
                    self._journal,
                    Gate(binding.spec, self.job.workers, binding.spent_usd),
                    partial(_provider, binding, self.registry),
                    partial(_folder, binding.weights, self.registry),
                )
                for role, binding in self.job.models.items()
            }
        return self._models

    def _usage(self, log: CallLog, spent: dict[str, float]) -> Usage:
        """Sums of calls; what they cost is added to `spent` by the pipeline's name of the model."""
        usage = Usage()
        for call in log.calls:
            if call.reused:
                usage += Usage(calls_reused=1)
                continue
            done = call.completion
            usage += Usage(calls=1, tokens_in=done.tokens_in, tokens_out=done.tokens_out, cost_usd=call.cost_usd)
            name = self.job.models[call.role].name
            spent[name] = spent.get(name, 0.0) + call.cost_usd
        return usage

    def _slice(self, port: str, part: Partition) -> pa.Table:
        """Rows [start, stop) of an input, whatever objects they are in."""
        pieces, start = [], 0
        for data in _objects(self.job.inputs[port]):
            stop = start + data.rows
            if start < part.stop and stop > part.start:
                table = _cached_table(self.registry.root, data.sha256)
                pieces.append(table.slice(max(0, part.start - start), min(stop, part.stop) - max(start, part.start)))
            start = stop
        return _concatenated(pieces, self.operator.inputs[port].record)

    def _whole_input(self, port: str) -> Table[Any]:
        if port not in self._tables:
            record = self.operator.inputs[port].record
            pieces = [self.registry.store.read_table(data.sha256) for data in _objects(self.job.inputs[port])]
            self._tables[port] = Table(record, _concatenated(pieces, record))
        return self._tables[port]


class _Keeper:
    """Stores the files of artifacts and remembers them for the manifest."""

    def __init__(self, registry: Registry) -> None:
        self._store = registry.store
        self.kept: list[DataObject] = []

    def __call__(self, folder: Path) -> list[StoredFile]:
        files = []
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            stored = self._store.put_file(path)
            self.kept.append(DataObject(sha256=stored.sha256, rows=0, bytes=stored.bytes))
            files.append(StoredFile(name=path.relative_to(folder).as_posix(), sha256=stored.sha256, bytes=stored.bytes))
        return files


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


@lru_cache(maxsize=8)
def _cached_table(root: Path, sha256: str) -> pa.Table:
    """Neighbouring partitions are slices of the same object."""
    return Registry(root).store.read_table(sha256)


def _objects(parts: Sequence[InputPart]) -> Iterator[DataObject]:
    for part in parts:
        yield from part.data


def _concatenated(pieces: list[pa.Table], record: type[Record]) -> pa.Table:
    """Tables of different origins as one with the record's columns; a column that one lacks is null there."""
    schema = record.arrow_schema()
    names = [name for name in schema.names if all(name in piece.schema.names for piece in pieces)]
    if not pieces:
        return schema.empty_table()
    return pa.concat_tables([piece.select(names) for piece in pieces], promote_options="permissive")


def _settings(params: Any) -> dict[str, Any]:
    return {name: getattr(params, name) for name in type(params).model_fields}


def _provider(binding: ModelBinding, registry: Registry) -> Provider:
    if binding.spec.provider == "openai":
        from engine.llm.openai import OpenAIProvider

        return OpenAIProvider(binding.spec)
    from engine.llm.transformers import TransformersProvider

    def weights() -> tuple[Path, Path | None]:
        assert binding.weights is not None
        folder = materialise(binding.weights, registry.store)
        if binding.weights.base is None:
            return folder, None
        return materialise(binding.weights.base, registry.store), folder

    return TransformersProvider(binding.spec, weights)


def _folder(weights: Weights | None, registry: Registry) -> Path:
    if weights is None:
        raise EngineError("this role needs a model in this process (provider: transformers), not an API")
    return materialise(weights, registry.store)


async def _any_generator(result: Any) -> AsyncIterator[Any]:
    if hasattr(result, "__aiter__"):
        async for item in result:
            yield item
    else:
        for item in result:
            yield item


def _main_error(error: BaseException) -> BaseException:
    """Of errors that rows raised together, the one that says most: an endpoint's or a budget's before others."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    inner = [_main_error(each) for each in error.exceptions]
    return next((each for each in inner if isinstance(each, EndpointError | BudgetError)), inner[0])
