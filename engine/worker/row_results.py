"""The result of each row of a partition: output rows, a reject, or a failure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.errors import EngineError
from engine.llm.chat import Call, CallLog
from engine.llm.types.errors import BudgetError, EndpointError
from engine.operator.context import Tally
from engine.provenance import Source
from registry import Record

OutputRow = tuple[str, Record, tuple[Source, ...], tuple[Call, ...]]
"""A yielded row: the output, the record, its known sources, and the calls made before it. A plain tuple, as there are many."""

PlainRow = Record
"""A yielded row of the only output, without known sources and calls: no tuple, as most are such."""


class OperatorError(Exception):
    """An operator raised an exception, or yielded something it did not declare."""


@dataclass(slots=True)
class RowResult:
    """The result of one input row: output rows, or a reason for its rejection, or an error that fails the step.

    `emitted` has records where they are a PlainRow, `partial` the reasons given to `ctx.reject`, `tally` the numbers that the
    operator reported, `log` the calls of models; None where the operator has no context, or no models.
    """

    emitted: list[OutputRow | PlainRow]
    log: CallLog | None = None
    rejected: str | None = None
    error: Exception | None = None
    partial: list[str] | None = None
    tally: Tally | None = None

    @property
    def reasons(self) -> Sequence[str]:
        """All entries of this row in `rejects`."""
        return (self.partial or ()) if self.rejected is None else (self.rejected,)


PlainResult = list[OutputRow | PlainRow]
"""The result of a row of which nothing is known but what was yielded: the `emitted` of a RowResult, for the same reason."""


def main_error(errors: Sequence[Exception]) -> Exception:
    """The most informative of several errors: those of an endpoint or a budget first, then those of an operator."""
    order: tuple[type[Exception], ...] = (EndpointError, BudgetError, OperatorError, EngineError)
    return next((error for kind in order for error in errors if isinstance(error, kind)), errors[0])
