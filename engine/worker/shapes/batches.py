"""Batch operators: they take a partition as an Arrow table and return one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import ValidationError

from engine.errors import EngineError
from engine.jobs.messages import Partition
from engine.llm.chat import CallLog
from engine.operator.declaration.operator import Operator
from engine.operator.types import place_in
from engine.provenance import RowRef
from engine.worker.operation import Operation, Scope, Write, wrong_fields
from engine.worker.row_results import OperatorError, OutputRow
from engine.worker.row_tables import ROW, RowTable, row_table
from registry.counted import counted
from registry.records.arrays import int64_array


def run_batch(operation: Operation, part: Partition, scope: Scope) -> Write:
    """Call a batch operator with a partition."""
    operator, stream = operation.operator, operation.stream
    given = operation.table(part)
    numbered = given.rows.add_column(0, ROW, int64_array(np.arange(part.rows)))
    rejected: dict[int, str] = {}
    arguments = {stream: numbered, **operation.arguments, **operation.whole_inputs()}
    if operator.context:
        arguments[operator.context] = operation.context(scope, partial(operation.seed, part.digest), row_rejects=rejected)
    try:
        result = operator.function(**arguments)
    except (EngineError, OSError):
        raise
    except Exception as error:
        where = place_in(operator.function, error)
        raise OperatorError(f"{where}: operator {operator.name} raised {type(error).__name__}: {error}") from error
    tables: dict[str, RowTable] = {}
    emitted: list[OutputRow] = []
    for output, returned in _tables(operator, result).items():
        record = operator.outputs[output]
        if checked := row_table(returned, record, part.rows, given.rows if record is given.record else None):
            tables[output] = checked
        else:
            emitted += _rows(operator, output, returned, stream)
    if rejected:
        _check_rejected(operator, rejected, _used(tables, emitted), part.rows)
    writer = operation.writer(part)
    for output, checked in tables.items():
        writer.add_table(output, checked, given)
    writer.add_free(emitted, CallLog())
    writer.add_rejected(rejected)
    known = writer.produced(stream)
    produced = part.rows - len(rejected) if known is None else known
    filtered = part.rows - len(rejected) - produced
    return partial(writer.receipt, part, produced=produced, filtered=filtered, rejected=len(rejected))


def _tables(operator: Operator, result: Any) -> dict[str, pa.Table]:
    """What the operator returned, by output."""
    outputs = operator.outputs
    by_output = {next(iter(outputs)): result} if isinstance(result, pa.Table) and len(outputs) == 1 else result
    known = isinstance(by_output, dict) and by_output.keys() <= outputs.keys()
    if known and all(isinstance(each, pa.Table) for each in by_output.values()):
        return by_output
    expected = "an Arrow table" if len(outputs) == 1 else f"a dict of Arrow tables, with {', '.join(outputs)}"
    found = f"the keys {', '.join(map(str, result))}" if isinstance(result, dict) else f"a {type(result).__name__}"
    raise OperatorError(f"{operator.place}: operator {operator.name} returned {found}; expected {expected}")


def _rows(operator: Operator, output: str, table: pa.Table, stream: str) -> list[OutputRow]:
    record = operator.outputs[output]
    try:
        rows = list(record.from_table(table))
    except ValidationError as error:
        what = f"operator {operator.name} returned rows that do not fit {record.type_name()}"
        raise OperatorError(f"{operator.place}: {what}: {wrong_fields(error)}") from error
    parents = table.column(ROW).to_pylist() if ROW in table.schema.names else [[]] * table.num_rows
    # A null, for example from an outer join, means that the row's source is unknown.
    named = [each if isinstance(each, list) else [each] for each in parents]
    sources = [tuple(RowRef(stream, row) for row in each if row is not None) for each in named]
    return [(output, row, refs, ()) for row, refs in zip(rows, sources, strict=True)]


def _used(tables: Mapping[str, RowTable], emitted: Sequence[OutputRow]) -> set[int]:
    """The rows of the batch of which rows were made."""
    used = {source.row for _, _, sources, _ in emitted for source in sources if isinstance(source, RowRef)}
    return used.union(*(each.places.tolist() for each in tables.values() if each.places is not None))


def _check_rejected(operator: Operator, rejected: dict[int, str], used: set[int], rows: int) -> None:
    for row in rejected:
        if not isinstance(row, int) or not 0 <= row < rows:
            raise OperatorError(
                f"{operator.place}: operator {operator.name} rejected row {row} of a batch of {counted(rows, 'row')}"
            )
        if row in used:
            raise OperatorError(f"{operator.place}: operator {operator.name} rejected row {row} and returned it, too")
