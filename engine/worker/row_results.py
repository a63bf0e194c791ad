"""What became of each row of a partition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.errors import EngineError
from engine.jobs.messages import Usage
from engine.llm.chat import CallLog
from engine.llm.types.errors import BudgetError, EndpointError
from engine.operator.context import Tally
from engine.worker.models import usage
from engine.worker.operation import OperatorError
from engine.worker.output_writer import OutputRow


@dataclass(slots=True)
class RowResult:
    """The result of one input row: output rows, or a reason for its rejection, or an error that fails the step.

    `partial` has the reasons given to `ctx.reject`, `tally` the numbers that the operator reported, `log` the calls of models;
    None where the operator has no context, or no models.
    """

    emitted: list[OutputRow]
    rejected: str | None = None
    error: Exception | None = None
    partial: list[str] | None = None
    tally: Tally | None = None
    log: CallLog | None = None

    @property
    def reasons(self) -> Sequence[str]:
        """All entries of this row in `rejects`."""
        return self.partial or () if self.rejected is None else (self.rejected,)


class FailedRowsError(Exception):
    """Rows failed the step. `cause` is the most informative error; `usage` sums the calls of all rows."""

    def __init__(self, results: Sequence[RowResult]) -> None:
        super().__init__("rows failed")
        self.cause = _main_error([result.error for result in results if result.error])
        self.usage = usage_of(results)


def usage_of(results: Sequence[RowResult]) -> Usage:
    """The sum of the calls of all rows."""
    return sum((usage(result.log) for result in results if result.log and result.log.calls), Usage())


def _main_error(errors: Sequence[Exception]) -> Exception:
    """The most informative of several errors: those of an endpoint or a budget first, then those of an operator."""
    order: tuple[type[Exception], ...] = (EndpointError, BudgetError, OperatorError, EngineError)
    return next((error for kind in order for error in errors if isinstance(error, kind)), errors[0])
