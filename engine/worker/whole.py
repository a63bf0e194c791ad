"""Whole-input operators: called once per step."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from engine.errors import EngineError
from engine.jobs.messages import Partition, Receipt
from engine.llm.chat import CallLog, current_log
from engine.llm.types.errors import ModelError, RequestError
from engine.operator.context import Reject
from engine.operator.types import place_in
from engine.worker.models import usage
from engine.worker.operation import Operation, Scope
from engine.worker.row_results import OperatorError, OutputRow


async def run_whole(operation: Operation, part: Partition, scope: Scope) -> Receipt:
    """Call a whole-input operator."""
    operator, log = operation.operator, CallLog()
    current_log.set(log)
    inputs = operation.whole_inputs()
    arguments: dict[str, Any] = {**operation.whole_arguments(), **operation.arguments}
    if operator.context:
        arguments[operator.context] = operation.context(scope, operation.seed)
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
    produced = unused = 0
    for name, table in inputs.items():
        if table is None:
            continue
        known = writer.produced(name)
        rows = len(table) if known is None else len(known)
        produced += rows
        never = sum(times == 0 for ref, times in scope.tally.seen.items() if ref.port == name)
        unused += len(table) - rows if operator.inputs[name].lookup else min(never, len(table) - rows)
    filtered = part.rows - produced - unused
    return writer.receipt(part, produced=produced, filtered=filtered, rejected=0, unused=unused, usage=usage([log]))


async def _any_generator(result: Any) -> AsyncIterator[Any]:
    if hasattr(result, "__aiter__"):
        async for item in result:
            yield item
    else:
        for item in result:
            yield item
