"""Whole-input operators: called once per step."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from typing import Any

from engine.errors import EngineError
from engine.jobs.messages import Partition
from engine.llm.chat import CallLog, current_log
from engine.llm.types.errors import ModelError, RequestError
from engine.operator.context import Reject
from engine.operator.declaration.operator import Operator
from engine.operator.tables import Table
from engine.operator.types import place_in
from engine.provenance import RowRef
from engine.worker.models import usage
from engine.worker.operation import Operation, Scope, Write
from engine.worker.row_results import OperatorError, OutputRow


async def run_whole(operation: Operation, part: Partition, scope: Scope) -> Write:
    """Call a whole-input operator once, with all rows of its inputs.

    Raises:
        OperatorError: the operator rejected everything, raised an exception, or yielded something it did not declare.
        ModelError, EngineError: raised in the operator, which did not catch it.
    """
    operator, log = operation.operator, CallLog()
    current_log.set(log)
    inputs = operation.whole_inputs()
    arguments: dict[str, Any] = {**operation.whole_arguments(), **operation.arguments}
    rejected: dict[RowRef, str] = {}
    if operator.context:
        arguments[operator.context] = operation.context(scope, operation.seed, row_rejects=rejected)
    emitted: list[OutputRow] = []
    try:
        async for item in _any_generator(operator.function(**arguments)):
            emitted.append(operation.checked(item))
    except (Reject, RequestError) as error:
        raise OperatorError(f"operator {operator.name}: {error}") from error
    except (ModelError, OperatorError, EngineError):
        raise
    except Exception as error:
        where = place_in(operator.function, error)
        raise OperatorError(f"{where}: operator {operator.name} raised {type(error).__name__}: {error}") from error
    writer = operation.writer(part)
    writer.add_free(emitted, log)
    writer.add_exposure(scope.tally.seen)
    _check_rejected(operator, rejected, emitted, inputs)
    writer.add_rejected_rows(rejected)
    produced = unused = 0
    for name, table in inputs.items():
        if table is None:
            continue
        known = writer.produced(name)
        without = sum(ref.port == name for ref in rejected)
        rows = len(table) - without if known is None else known
        produced += rows
        never = sum(times == 0 for ref, times in scope.tally.seen.items() if ref.port == name)
        rest = len(table) - rows - without
        unused += rest if operator.inputs[name].lookup else min(never, rest)
    filtered = part.rows - produced - unused - len(rejected)
    counts = {"produced": produced, "filtered": filtered, "rejected": len(rejected), "unused": unused}
    return partial(writer.receipt, part, **counts, usage=usage([log]))


def _check_rejected(
    operator: Operator,
    rejected: Mapping[RowRef, str],
    emitted: Sequence[OutputRow],
    inputs: Mapping[str, Table[Any] | None],
) -> None:
    used = {source for _, _, sources, _ in emitted for source in sources if isinstance(source, RowRef)} if rejected else set()
    for ref in rejected:
        table = inputs.get(ref.port) if isinstance(ref, RowRef) else None
        if table is None or not 0 <= ref.row < len(table):
            raise OperatorError(f"{operator.place}: operator {operator.name} rejected {ref!r}; expected a row, as table.ref(n)")
        if ref in used:
            what = f"rejected row {ref.row} of {ref.port!r} and made a row of it, too"
            raise OperatorError(f"{operator.place}: operator {operator.name} {what}")


async def _any_generator(result: Any) -> AsyncIterator[Any]:
    if hasattr(result, "__aiter__"):
        async for item in result:
            yield item
    else:
        for item in result:
            yield item
