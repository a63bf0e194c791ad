"""Row operators: called for each row of a partition, with all rows concurrent on one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.errors import EngineError
from engine.jobs.messages import Partition, Receipt, Usage
from engine.llm.chat import CallLog, current_log
from engine.llm.types.errors import BudgetError, EndpointError, ModelError, RequestError
from engine.llm.types.row_context import refresh
from engine.operator.context import Reject, Tally
from engine.operator.types import place_in
from engine.provenance import RowRef
from engine.worker.models import usage
from engine.worker.operation import Operation, OperatorError, Scope
from engine.worker.output_writer import OutputRow
from registry import Record
from registry.storage.valid_text import repaired

_LONGEST_REASON = 1000
_CODE_ERRORS = (NameError, ImportError, NotImplementedError, AssertionError, SyntaxError, MemoryError, OSError)
"""Exceptions that are caused by the operator's code, whatever a model answered."""


@dataclass
class RowResult:
    """The result of one input row: output rows, or a reason for its rejection, or an error that fails the step.

    `partial` has the reasons given to `ctx.reject`, `tally` the numbers that the operator reported.
    """

    emitted: list[OutputRow] = field(default_factory=list)
    rejected: str | None = None
    partial: list[str] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    error: Exception | None = None
    log: CallLog = field(default_factory=CallLog)

    @property
    def reasons(self) -> list[str]:
        """All entries of this row in `rejects`."""
        return self.partial if self.rejected is None else [self.rejected]


class FailedRowsError(Exception):
    """Rows failed the step. `cause` is the most informative error; `usage` sums the calls of all rows."""

    def __init__(self, results: Sequence[RowResult]) -> None:
        super().__init__("rows failed")
        self.cause = _main_error([result.error for result in results if result.error])
        self.usage = _usage(results)


async def run_rows(operation: Operation, part: Partition, scope: Scope, stop: Callable[[], None]) -> Receipt:
    """Call a row operator for each row of a partition.

    Args:
        operation: the operator.
        part: the rows.
        scope: of the partition.
        stop: called when a row fails the step, so that no more requests are sent.

    Raises:
        FailedRowsError: a row failed the step.
    """
    whole = operation.whole_inputs()
    rows = enumerate(operation.rows(part), part.first)
    results = await asyncio.gather(*[_row(operation, row, number, whole, scope, stop) for number, row in rows])
    if any(result.error for result in results):
        raise FailedRowsError(results)
    for result in results:
        scope.tally.add(result.tally)
    # In a thread, so that other rows' answers do not wait for the disk.
    return await asyncio.to_thread(_written, operation, part, results)


def _written(operation: Operation, part: Partition, results: Sequence[RowResult]) -> Receipt:
    writer, stream = operation.writer(part), operation.stream
    produced = sum(
        writer.add_row(RowRef(stream, number), result.emitted, result.reasons, result.log)
        for number, result in enumerate(results)
    )
    rejected = sum(result.rejected is not None for result in results)
    filtered = len(results) - produced - rejected
    return writer.receipt(part, produced=produced, filtered=filtered, rejected=rejected, usage=_usage(results))


def _usage(results: Sequence[RowResult]) -> Usage:
    return sum((usage(result.log) for result in results if result.log.calls), Usage())


async def _row(
    operation: Operation, row: Record, number: int, whole: Mapping[str, Any], scope: Scope, stop: Callable[[], None]
) -> RowResult:
    # Seeded by content, not by position: moving or adding a row does not change the draws of other rows.
    seed = operation.seed(row.model_dump()) if operation.operator.context else 0
    arguments = {operation.stream: row, **whole, **operation.arguments}
    where = f"row {number} of {operation.stream!r}"
    result = await _attempt(operation, row, arguments, seed, where, scope)
    if operation.job.retry_rejects and result.rejected is not None and result.log.calls and not result.log.asked:
        # The row was rejected again because of answers in the journal.
        refresh.set(True)
        first, result = result, await _attempt(operation, row, arguments, seed, where, scope)
        result.log.calls[:0] = first.log.calls
    if result.error:
        stop()
    operation.heartbeat.row_done()
    return result


async def _attempt(
    operation: Operation, row: Record, arguments: dict[str, Any], seed: int, where: str, scope: Scope
) -> RowResult:
    """Call the operator for a row."""
    operator, result = operation.operator, RowResult()
    current_log.set(result.log)
    if operator.context:
        arguments = {**arguments, operator.context: operation.context(scope, seed, result.tally, result.partial)}
    try:
        async for item in operator.function(**arguments):
            # Any of the calls so far may have contributed to the row, unless the operator names them.
            result.emitted.append(operation.checked(item, where, tuple(result.log.calls), given=row))
    except (Reject, RequestError) as error:
        # A row is rejected as a whole, with everything it yielded.
        result.emitted, result.rejected = [], str(error)
    except (ModelError, OperatorError, EngineError) as error:
        result.error = error
    except Exception as error:
        if result.log.calls and not isinstance(error, _CODE_ERRORS):
            # A model's answer may be the cause. It is in the journal, so an error would fail every later run as well.
            operation.log.warning("operator %s failed on %s", operator.name, where, exc_info=error)
            reason = f"operator {operator.name} raised {type(error).__name__}: {error}"
            result.emitted, result.rejected = [], repaired(f"{reason[:_LONGEST_REASON]} (after a model's answer)")
            return result
        what = f"operator {operator.name} raised {type(error).__name__} on {where}: {error}"
        result.error = OperatorError(f"{place_in(operator.function, error)}: {what}")
        result.error.__cause__ = error
    return result


def _main_error(errors: Sequence[Exception]) -> Exception:
    """The most informative of several errors: those of an endpoint or a budget first, then those of an operator."""
    order: tuple[type[Exception], ...] = (EndpointError, BudgetError, OperatorError, EngineError)
    return next((error for kind in order for error in errors if isinstance(error, kind)), errors[0])
