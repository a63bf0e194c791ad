"""An operator as a job runs it, whatever its shape: with its inputs, its arguments and its context."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import ValidationError

from engine.errors import wrong_value
from engine.jobs.heartbeat import Heartbeat, owner_of
from engine.jobs.messages import Job, Partition, Receipt
from engine.jobs.receipts import Receipts
from engine.llm.chat import Call, ChatModel
from engine.operator.context import Context, Tally
from engine.operator.declaration.operator import Operator
from engine.operator.reviews import Reviews
from engine.operator.tables import Grouped, Table
from engine.packages.catalogue import catalogue
from engine.provenance import RowRef, sources_of
from engine.worker.attachments import FileCollector
from engine.worker.inputs import read_rows, read_slice, read_whole
from engine.worker.output_writer import OutputWriter
from engine.worker.row_results import OperatorError, OutputRow
from engine.worker.row_tables import GivenRows, GivenTable
from engine.worker.run_log import run_log
from registry import Record, Registry
from registry.records.described import Described
from registry.records.known_valid import known_valid
from registry.records.stored_rows import is_immutable

if TYPE_CHECKING:
    from engine.llm.encoder import Encoder


Write = Callable[[], Receipt]
"""Writes the objects of a partition whose rows are made, and returns the receipt. For a thread: it waits for the disk."""


def wrong_fields(error: ValidationError) -> str:
    """The fields of a record that are wrong, and why."""
    found = error.errors(include_url=False)
    return "; ".join(": ".join([*filter(None, [".".join(map(str, each["loc"]))]), wrong_value(each)]) for each in found)


@dataclass
class Scope:
    """The state of one partition: a scratch folder, and what the operator reports and keeps."""

    files: FileCollector
    tally: Tally = field(default_factory=Tally)
    _folder: Path | None = None

    def folder(self) -> Path:
        """The scratch folder. Most operators need none."""
        self._folder = self._folder or Path(tempfile.mkdtemp(prefix="engine-"))
        return self._folder

    def clear(self) -> None:
        """Remove the scratch folder."""
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)


class Roles(Protocol):
    """The models that fill the roles of an operator."""

    def role(self, role: str) -> ChatModel | Encoder | None:
        """The model in a role; None if it is not used."""


def installed_operator(job: Job) -> Operator:
    """The operator that a job names, with the types of its inputs and outputs."""
    known = catalogue()
    declared = known.operators[job.operator].with_inputs(job.types)
    named = {
        port: about.record() if isinstance(about, Described) else known.records[about]
        for port, about in job.types.items()
        if declared.inputs[port].open
    }
    return declared.typed(named).with_outputs(declared.params.model_validate(job.params))


class Operation:
    """The operator of a job.

    Args:
        job: names the operator, its inputs and its parameters.
        registry: the registry with the inputs.
        models: fill its roles.
        operator: the operator itself (default: the installed one that the job names).
    """

    def __init__(self, job: Job, registry: Registry, models: Roles, operator: Operator | None = None) -> None:
        self.job = job
        self.operator: Operator = operator or installed_operator(job)
        self._params = self.operator.params.model_validate(job.params)
        self._settings = self.operator.arguments(self._params)
        self.log = run_log(registry.root / "runs" / f"{job.run_id}.log", f"{job.pipeline}/{job.step}")
        self.receipts = Receipts.of(registry, job.base_key)
        self.heartbeat = Heartbeat(self.receipts.folder, owner_of(job.run_id, job.step))
        self._registry = registry
        self._models = models
        self._tables: dict[str, Table[Any]] = {}

    @cached_property
    def stream(self) -> str:
        """The name of the input that is passed row by row, or in batches."""
        assert self.operator.streamed is not None
        return self.operator.streamed

    def table(self, part: Partition) -> GivenTable:
        """The streamed input's rows of a partition."""
        assert part.rows_in is not None
        return read_slice(self._registry.store, part.rows_in, self._streamed)

    def rows(self, part: Partition) -> GivenRows:
        """The same rows as records."""
        assert part.rows_in is not None
        return read_rows(self._registry.store, part.rows_in, self._streamed)

    def whole_inputs(self) -> dict[str, Table[Any] | None]:
        """The inputs that are passed whole; None for one that the pipeline omits."""
        return {name: self._whole_input(name) for name, port in self.operator.inputs.items() if port.whole}

    def whole_arguments(self) -> dict[str, Any]:
        """The whole inputs as arguments of the operator's function."""
        inputs = self.whole_inputs()
        return {self.operator.named_inputs: inputs} if self.operator.named_inputs else {**inputs}

    @cached_property
    def arguments(self) -> dict[str, Any]:
        """The operator's other arguments: parameters, models (None in unused roles), and decisions of people."""
        models = {role: self._models.role(role) for role in self.operator.roles}
        return {**self._settings, **models, **self._reviews}

    @cached_property
    def _reviews(self) -> dict[str, Reviews]:
        task = self.operator.review(self._params, {name: port.record for name, port in self.operator.inputs.items()})
        return {self.operator.reviews: Reviews(self.job.decisions, task)} if self.operator.reviews and task else {}

    def seed(self, *parts: Any) -> int:
        """A seed from the pipeline's seed, the operator and `parts`."""
        # repr, because JSON can represent neither bytes nor infinity.
        text = repr((self.job.seed, self.operator.name, *parts))
        return int(hashlib.sha256(text.encode()).hexdigest()[:16], 16)

    def seed_of(self, row: Record) -> Callable[[], int]:
        """Computes the seed for a row, which costs more than most operators: by content, not by position, so moving or adding
        a row does not change the draws of others.
        """
        if is_immutable(type(row)):
            return lambda: self.seed(row.model_dump())
        return partial(self.seed, row.model_dump())  # as it is before the operator changes a list in it

    def context(
        self,
        scope: Scope,
        seed: Callable[[], int],
        tally: Tally | None = None,
        rejects: list[str] | None = None,
        row_rejects: dict[int, str] | dict[RowRef, str] | None = None,
    ) -> Context:
        """The context of a call of the operator.

        Args:
            scope: the scope of the partition.
            seed: returns the seed; see `seed`.
            tally: collects its numbers (default: the partition's).
            rejects: collects its partial rejects, if it is called for a row.
            row_rejects: collects its rejected rows, if it is called for a batch or for whole inputs.
        """
        return Context(
            self.log,
            self.job.device,
            seed,
            scope.folder,
            self.receipts.checkpoints,
            scope.tally if tally is None else tally,
            scope.files,
            self._registry.store.read_bytes,
            self.heartbeat.show,
            [] if rejects is None else rejects,
            row_rejects,
        )

    @cached_property
    def _name(self) -> str:
        """The operator in error messages. Not built for each row."""
        return f"{self.operator.place}: operator {self.operator.name}"

    def where(self, number: int | None) -> str:
        """What the operator was called for, for error messages: a row by its number, or its inputs."""
        return "its inputs" if number is None else f"row {number} of {self.stream!r}"

    def checked(
        self, item: Any, calls: tuple[Call, ...] = (), given: Record | None = None, number: int | None = None
    ) -> OutputRow:
        """What the operator yielded, checked against its declaration and validated.

        Args:
            item: a record, or (output, record).
            calls: the calls made before.
            given: the row that the operator was called for. It is valid, and stays valid if it is immutable.
            number: the number of that row.
        """
        if item is given and self.passes_on is type(item):
            return self._first, item, (), calls
        name, outputs = self._name, self.operator.outputs
        output, row = item if isinstance(item, tuple) and len(item) == 2 else (self._first, item)
        if item is row and len(outputs) > 1:
            raise OperatorError(f"{name} has the outputs {', '.join(outputs)} and must yield (output, record)")
        if output not in outputs or output in self.operator.finished_outputs:
            names = ", ".join(each for each in outputs if each not in self.operator.finished_outputs)
            raise OperatorError(f"{name} yielded to {output!r}; its outputs are {names}")
        declared = outputs[output]
        if isinstance(row, Record) and type(row) is declared and is_immutable(declared) and (row is given or known_valid(row)):
            return output, row, sources_of(row), calls
        if not isinstance(row, declared):
            raise OperatorError(f"{name} yielded a {type(row).__name__} to {output!r}, which takes {declared.type_name()}")
        try:
            valid = declared.model_validate(row.model_dump(), by_name=True, by_alias=False)
        except ValidationError as error:
            what = f"{name} yielded an invalid {declared.type_name()} for {self.where(number)}"
            raise OperatorError(f"{what}: {wrong_fields(error)}") from error
        return output, valid, sources_of(row), calls

    @cached_property
    def _first(self) -> str:
        """The name of the first output."""
        return next(iter(self.operator.outputs))

    @cached_property
    def passes_on(self) -> type[Record] | None:
        """The type of the only output, if a row of it that was given may be yielded as it is."""
        declared = self.operator.outputs[self._first]
        several = len(self.operator.outputs) > 1
        return None if several or self.operator.finished_outputs or not is_immutable(declared) else declared

    def writer(self, part: Partition) -> OutputWriter:
        """A writer for the output rows of a partition."""
        return OutputWriter(self._registry.store, self.operator, self._rows_of(part), self.job.excluded)

    def _rows_of(self, part: Partition) -> dict[str, int]:
        """The number of rows of each input that a partition can name as sources."""
        whole = {name: sum(version.rows for version in versions) for name, versions in self.job.inputs.items()}
        return whole if part.rows_in is None else {**whole, self.stream: part.rows}

    @property
    def _streamed(self) -> type[Record]:
        return self.operator.inputs[self.stream].record

    def _whole_input(self, port: str) -> Table[Any] | None:
        if port not in self.job.inputs:
            return None
        if port not in self._tables:
            record = self.operator.inputs[port].record
            arrow = read_whole(self._registry.store, self.job.inputs[port], record)
            table = self.operator.inputs[port].table or Table
            groups = (self.job.row_groups.get(port, ()),) if issubclass(table, Grouped) else ()
            self._tables[port] = table(record, arrow, port, *groups)
        return self._tables[port]
