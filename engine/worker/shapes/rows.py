"""Row operators: called for each row of a partition, with all rows concurrent on one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import FrozenInstanceError, dataclass
from functools import partial
from typing import Any

from engine.errors import EngineError
from engine.jobs.messages import Partition, Receipt, Usage
from engine.llm.chat import CallLog, current_log
from engine.llm.local.memory import is_out_of_memory
from engine.llm.types.errors import ModelError, RequestError
from engine.llm.types.row_context import refresh
from engine.operator.context import Reject, Tally
from engine.operator.types import place_in
from engine.worker.models import usage
from engine.worker.operation import Operation, Scope, Write
from engine.worker.row_results import OperatorError, PlainResult, RowResult, main_error
from engine.worker.row_tables import GivenRows
from engine.worker.shapes.turns import in_turn
from registry import Record
from registry.storage.valid_text import repaired

_LONGEST_REASON = 1000
_CODE_ERRORS = (
    NameError,
    ImportError,
    NotImplementedError,
    AssertionError,
    SyntaxError,
    MemoryError,
    OSError,
    FrozenInstanceError,
)
"""Exceptions that are caused by the operator's code, whatever a model answered."""


class FailedRowsError(Exception):
    """Rows failed the step. `cause` is the most informative error; `usage` sums the calls of all rows."""

    def __init__(self, results: Sequence[RowResult]) -> None:
        super().__init__("rows failed")
        self.cause = main_error([result.error for result in results if result.error])
        self.usage = _usage(results)


async def run_rows(operation: Operation, part: Partition, scope: Scope, stop: Callable[[], None]) -> Write:
    """Call a row operator for each row of a partition.

    Args:
        operation: the operator.
        part: the rows.
        scope: the scope of the partition.
        stop: called when a row fails the step, so that no more requests are sent.

    Raises:
        FailedRowsError: a row failed the step.
    """
    made: dict[int, RowResult | PlainResult] = {}
    calls = _Calls(operation, {**operation.whole_inputs(), **operation.arguments}, part.first, scope, made, stop)
    given = operation.rows(part)
    rows = enumerate(given.records)
    if operation.job.models:
        await asyncio.gather(*[calls.with_models(place, row) for place, row in rows])
    else:
        await in_turn(rows, calls.without_models)
    results = [made[place] for place in range(part.rows)]
    known = [result for result in results if isinstance(result, RowResult)]
    if any(result.error for result in known):
        raise FailedRowsError(known)
    for result in known:
        if result.tally:
            scope.tally.add(result.tally)
    return partial(_written, operation, part, given, results, known)


def _written(
    operation: Operation,
    part: Partition,
    given: GivenRows,
    results: Sequence[RowResult | PlainResult],
    known: Sequence[RowResult],
) -> Receipt:
    writer = operation.writer(part)
    produced = writer.add_results(results, given)
    rejected = sum(result.rejected is not None for result in known)
    filtered = len(results) - produced - rejected
    return writer.receipt(part, produced=produced, filtered=filtered, rejected=rejected, usage=_usage(known))


def _usage(results: Sequence[RowResult]) -> Usage:
    return usage(result.log for result in results if result.log and (result.log.calls or result.log.discarded))


@dataclass(frozen=True)
class _Calls:
    """Calls of the operator for the rows of a partition.

    Attributes:
        arguments: the arguments that are the same for all rows.
        first: the number of the first row, for messages.
        results: gets the results, by place in the partition.
    """

    operation: Operation
    arguments: dict[str, Any]
    first: int
    scope: Scope
    results: dict[int, RowResult | PlainResult]
    stop: Callable[[], None]

    async def without_models(self, rows: Iterator[tuple[int, Record]]) -> None:
        """Call it for rows, one after another."""
        await self._call(rows, self.results, self.operation.heartbeat.row_done)

    async def with_models(self, place: int, row: Record) -> None:
        """Call it for a row that has a task of its own."""
        result, log = await self._logged(place, row)
        if self.operation.job.retry_rejects and result.rejected is not None and log.calls and not log.asked:
            # The row was rejected again because of answers in the journal.
            refresh.set(True)
            result, again = await self._logged(place, row)
            again.calls[:0] = log.calls
        self.results[place] = result
        self.operation.heartbeat.row_done()

    async def _logged(self, place: int, row: Record) -> tuple[RowResult, CallLog]:
        log, results = CallLog(), dict[int, RowResult | PlainResult]()
        current_log.set(log)
        await self._call([(place, row)], results, lambda: None, log)
        result = results[place]
        assert isinstance(result, RowResult)
        return result, log

    async def _call(
        self,
        rows: Iterable[tuple[int, Record]],
        results: dict[int, RowResult | PlainResult],
        row_done: Callable[[], None],
        log: CallLog | None = None,
    ) -> None:
        operation, function, stream = self.operation, self.operation.operator.function, self.operation.stream
        arguments, context, checked = {**self.arguments}, self.operation.operator.context, self.operation.checked
        passes_on, one_output = None if log else operation.passes_on, len(self.operation.operator.outputs) == 1
        for place, row in rows:
            arguments[stream] = row
            emitted: PlainResult = []
            result = RowResult(emitted, log) if context or log else None
            if context and result:
                result.tally, result.partial = Tally(), []
                arguments[context] = operation.context(self.scope, operation.seed_of(row), result.tally, result.partial)
            try:
                async for item in function(**arguments):
                    if item is row and passes_on is type(row):
                        emitted.append(row)
                        continue
                    # Any of the calls so far may have contributed to the row, unless the operator names them.
                    made = checked(item, tuple(log.calls) if log else (), row, self.first + place)
                    _, record, sources, calls = made
                    emitted.append(made if sources or calls or not one_output else record)
            except Exception as error:
                result = result or RowResult(emitted)
                self._fail(self.first + place, result, error)
                if result.error:
                    self.stop()
            results[place] = result or emitted
            row_done()

    def _fail(self, number: int, result: RowResult, error: Exception) -> None:
        """Note in the result what an error means for its row."""
        name, where = self.operation.operator.name, self.operation.where(number)
        if isinstance(error, Reject | RequestError):
            # A row is rejected as a whole, with everything it yielded.
            result.emitted, result.rejected = [], repaired(str(error))
        elif isinstance(error, ModelError | OperatorError | EngineError):
            result.error = error
        elif result.log and result.log.calls and not isinstance(error, _CODE_ERRORS) and not is_out_of_memory(error):
            # A model's answer may be the cause. It is in the journal, so an error would fail every later run as well.
            self.operation.log.warning("operator %s failed on %s", name, where, exc_info=error)
            reason = f"operator {name} raised {type(error).__name__}: {error}"
            result.emitted, result.rejected = [], repaired(f"{reason[:_LONGEST_REASON]} (after a model's answer)")
        else:
            what = f"operator {name} raised {type(error).__name__} on {where}: {error}"
            result.error = OperatorError(f"{place_in(self.operation.operator.function, error)}: {what}")
            result.error.__cause__ = error
