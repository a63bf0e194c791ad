"""Batch operators: they take a partition as an Arrow table and return one."""

from __future__ import annotations

from functools import partial

import pyarrow as pa
from pydantic import ValidationError

from engine.errors import EngineError
from engine.jobs.messages import Partition, Receipt
from engine.llm.chat import CallLog
from engine.operator.types import place_in
from engine.provenance import RowRef
from engine.worker.operation import Operation, Scope, wrong_fields
from engine.worker.row_results import OperatorError


def run_batch(operation: Operation, part: Partition, scope: Scope) -> Receipt:
    """Call a batch operator with a partition."""
    operator, stream = operation.operator, operation.stream
    table = operation.table(part)
    numbered = table.add_column(0, "_row", pa.array(range(part.rows), pa.int64()))
    arguments = {stream: numbered, **operation.arguments, **operation.whole_inputs()}
    if operator.context:
        arguments[operator.context] = operation.context(scope, partial(operation.seed, part.digest))
    try:
        result = operator.function(**arguments)
    except (EngineError, OSError):
        raise
    except Exception as error:
        where = place_in(operator.function, error)
        raise OperatorError(f"{where}: operator {operator.name} raised {type(error).__name__}: {error}") from error
    if not isinstance(result, pa.Table):
        kind = type(result).__name__
        raise OperatorError(f"{operator.place}: operator {operator.name} returned a {kind}; expected an Arrow table")
    [(output, record)] = operator.outputs.items()
    try:
        rows = list(record.from_table(result))
    except ValidationError as error:
        what = f"operator {operator.name} returned rows that do not fit {record.type_name()}"
        raise OperatorError(f"{operator.place}: {what}: {wrong_fields(error)}") from error
    parents = result.column("_row").to_pylist() if "_row" in result.schema.names else [[]] * result.num_rows
    # A null, for example from an outer join, means that the row's source is unknown.
    named = [each if isinstance(each, list) else [each] for each in parents]
    sources = [tuple(RowRef(stream, row) for row in each if row is not None) for each in named]
    writer = operation.writer(part)
    writer.add_free([(output, row, refs, ()) for row, refs in zip(rows, sources, strict=True)], CallLog())
    known = writer.produced(stream)
    produced = table.num_rows if known is None else len(known)
    return writer.receipt(part, produced=produced, filtered=table.num_rows - produced, rejected=0)
