"""Row operators: called for each row of a partition, with all rows concurrent on one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from engine.errors import EngineError
from engine.jobs.messages import Partition, Receipt
from engine.llm.chat import CallLog, current_log
from engine.llm.types.errors import ModelError, RequestError
from engine.llm.types.row_context import refresh
from engine.operator.context import Reject, Tally
from engine.operator.types import place_in
from engine.worker.operation import Operation, OperatorError, Scope
from engine.worker.row_results import FailedRowsError, RowResult, usage_of
from engine.worker.turns import in_turn
from registry import Record
from registry.storage.valid_text import repaired

_LONGEST_REASON = 1000
_CODE_ERRORS = (NameError, ImportError, NotImplementedError, AssertionError, SyntaxError, MemoryError, OSError)
"""Exceptions that are caused by the operator's code, whatever a model answered."""


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
    calls = _Calls(operation, {**operation.whole_inputs(), **operation.arguments}, scope, stop)
    rows = enumerate(operation.rows(part), part.first)
    results: list[RowResult]
    if operation.job.models:
        results = await asyncio.gather(*[calls.with_models(number, row) for number, row in rows])
    else:
        made: dict[int, RowResult] = {}
        await in_turn(rows, lambda turn: calls.without_models(turn, made))
        results = [made[number] for number in range(part.first, part.first + part.rows)]
    if any(result.error for result in results):
        raise FailedRowsError(results)
    for result in results:
        if result.tally:
            scope.tally.add(result.tally)
    # In a thread, so that other rows' answers do not wait for the disk.
    return await asyncio.to_thread(_written, operation, part, results)


def _written(operation: Operation, part: Partition, results: Sequence[RowResult]) -> Receipt:
    writer = operation.writer(part)
    produced = sum(
        writer.add_row(place, result.emitted, result.reasons, result.log.calls if result.log else ())
        for place, result in enumerate(results)
    )
    rejected = sum(result.rejected is not None for result in results)
    filtered = len(results) - produced - rejected
    return writer.receipt(part, produced=produced, filtered=filtered, rejected=rejected, usage=usage_of(results))


@dataclass(frozen=True)
class _Calls:
    """Calls of the operator for single rows; `arguments` has those that are the same for all."""

    operation: Operation
    arguments: dict[str, Any]
    scope: Scope
    stop: Callable[[], None]

    async def without_models(self, rows: Iterator[tuple[int, Record]], made: dict[int, RowResult]) -> None:
        """Call it for rows, one after another."""
        for number, row in rows:
            made[number] = result = RowResult([])
            await self._attempt(number, row, result, self._seed_of(row))
            self._done(result)

    async def with_models(self, number: int, row: Record) -> RowResult:
        """Call it for a row that has a task of its own."""
        seed = self._seed_of(row)
        result = await self._logged(number, row, seed)
        log = result.log
        if self.operation.job.retry_rejects and result.rejected is not None and log and log.calls and not log.asked:
            # The row was rejected again because of answers in the journal.
            refresh.set(True)
            result = await self._logged(number, row, seed)
            if result.log:
                result.log.calls[:0] = log.calls
        self._done(result)
        return result

    async def _logged(self, number: int, row: Record, seed: int) -> RowResult:
        result = RowResult([], log=CallLog())
        assert result.log
        current_log.set(result.log)
        await self._attempt(number, row, result, seed)
        return result

    def _seed_of(self, row: Record) -> int:
        # By content, not by position: moving or adding a row does not change the draws of other rows.
        return self.operation.seed(row.model_dump()) if self.operation.operator.context else 0

    def _done(self, result: RowResult) -> None:
        if result.error:
            self.stop()
        self.operation.heartbeat.row_done()

    async def _attempt(self, number: int, row: Record, result: RowResult, seed: int) -> None:
        """Call the operator for a row."""
        operation, operator, log = self.operation, self.operation.operator, result.log
        arguments = {**self.arguments, operation.stream: row}
        if operator.context:
            result.tally, result.partial = Tally(), []
            arguments[operator.context] = operation.context(self.scope, seed, result.tally, result.partial)
        try:
            async for item in operator.function(**arguments):
                # Any of the calls so far may have contributed to the row, unless the operator names them.
                result.emitted.append(operation.checked(item, tuple(log.calls) if log else (), given=row, number=number))
        except Exception as error:
            self._failed(number, result, error)

    def _failed(self, number: int, result: RowResult, error: Exception) -> None:
        """Note in the result what an error means for its row."""
        name, where = self.operation.operator.name, self.operation.where(number)
        if isinstance(error, Reject | RequestError):
            # A row is rejected as a whole, with everything it yielded.
            result.emitted, result.rejected = [], str(error)
        elif isinstance(error, ModelError | OperatorError | EngineError):
            result.error = error
        elif result.log and result.log.calls and not isinstance(error, _CODE_ERRORS):
            # A model's answer may be the cause. It is in the journal, so an error would fail every later run as well.
            self.operation.log.warning("operator %s failed on %s", name, where, exc_info=error)
            reason = f"operator {name} raised {type(error).__name__}: {error}"
            result.emitted, result.rejected = [], repaired(f"{reason[:_LONGEST_REASON]} (after a model's answer)")
        else:
            what = f"operator {name} raised {type(error).__name__} on {where}: {error}"
            result.error = OperatorError(f"{place_in(self.operation.operator.function, error)}: {what}")
            result.error.__cause__ = error
