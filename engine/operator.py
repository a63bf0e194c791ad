"""The public API for writing an operator: a decorated function whose signature is its contract.

    @operator(outputs={"solved": MathSolution}, models=["teacher"])
    async def solve(problem: MathProblem, ctx: Context, *, attempts: int = 1) -> AsyncIterator[tuple[str, MathSolution]]:
        ...

Three shapes, told apart by the signature:

* **row**: the first parameter is a record type. An async generator is called for each row and yields any number of
  rows. Further inputs that are needed whole are annotated `Table[...]`.
* **batch**: the first parameter is `Batch[...]`. A function gets a partition as an Arrow table, with the column `_row`
  (the row's number in the input), and returns a table. If it keeps `_row` (one number a row, or a list of them where it
  puts rows together), each row's lineage is known.
* **whole**: all inputs are `Table[...]`. A generator (async or not) is called once.

What is yielded is a record, or `(output, record)` when there is more than one output.

**Lineage** is known by itself for what comes row by row, and for rows of a `Table` that are yielded as they are or as
copies. For a new record made from rows of a `Table`, say so: `yield derived(Pair(...), chosen, rejected)`. What is not
said is recorded as unknown.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, create_model

from engine.context import Context, Reject
from engine.llm.abilities import Ability
from engine.origin import RowRef, derived, marked
from registry import Model, Record, StoredFile, UnsupportedTypeError

R = TypeVar("R", bound=Record)

Shape = Literal["row", "batch", "whole"]
SINGLE = "out"
"""The name of an operator's only output when it gives none."""


class Table(Generic[R]):
    """A whole input: records in order, read when asked for. `table.arrow` is the same as one Arrow table.

    Records remember which row they are, so that what is made of them has lineage; `table.ref(n)` stands for row `n` where
    an operator works on the Arrow table.
    """

    def __init__(self, record: type[R], arrow: pa.Table, port: str = "") -> None:
        self.record = record
        self.arrow = arrow
        self.port = port

    def __len__(self) -> int:
        return int(self.arrow.num_rows)

    def __iter__(self) -> Iterator[R]:
        for row, record in enumerate(self.record.from_table(self.arrow)):
            yield marked(record, self.ref(row))

    def ref(self, row: int) -> RowRef:
        """Row `row`, to be named as a source of a derived record."""
        return RowRef(self.port, row)

    def __getitem__(self, row: int) -> R:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        return marked(next(self.record.from_table(self.arrow.slice(row, 1))), self.ref(row))


class Batch(Generic[R]):
    """Annotation of a batch operator's input: an Arrow table with the columns of the record, and `_row`."""


@dataclass(frozen=True)
class Port:
    """An input of an operator: its record type, and whether it is given whole."""

    record: type[Record]
    whole: bool


@dataclass(frozen=True)
class Operator:
    """A registered operator, as the engine sees it."""

    name: str
    function: Callable[..., Any]
    shape: Shape
    inputs: Mapping[str, Port]
    outputs: Mapping[str, type[Record]]
    roles: tuple[str, ...]
    params: type[BaseModel]
    context: str | None = None
    version: int = 1
    calls: Callable[[Any], Mapping[str, int]] | None = field(default=None, compare=False)
    needs: Callable[[Any], Mapping[str, Sequence[Ability]]] | None = field(default=None, compare=False)

    @property
    def doc(self) -> str:
        """The docstring, unindented."""
        return inspect.getdoc(self.function) or ""

    def calls_per_row(self, params: BaseModel) -> Mapping[str, int]:
        """At most so many model calls a row, by role: what `engine plan` counts before anything is paid."""
        if self.calls:
            return self.calls(params)
        return dict.fromkeys(self.roles if self.shape == "row" else (), 1)


def operator(
    *,
    outputs: Mapping[str, type[Record]] | type[Record],
    models: Sequence[str] = (),
    calls: Callable[[Any], Mapping[str, int]] | None = None,
    needs: Callable[[Any], Mapping[str, Sequence[Ability]]] | None = None,
    name: str | None = None,
    version: int = 1,
) -> Callable[[Callable[..., Any]], Operator]:
    """Register a function as an operator.

    Args:
        outputs: record types by output name, or one record type for an operator with one output.
        models: roles that the pipeline's models fill; the operator finds them in `ctx.models`.
        calls: from the parameters to the most model calls a row needs, by role (default: one a role).
        needs: from the parameters to what the models' servers must be able to do, by role; what one of them cannot is said
            before the step starts.
        name: the operator's name, if it is not the function's.
        version: to be raised when the operator's meaning changes in a way that its code does not show.

    Raises:
        TypeError: when the signature is not one of the three shapes; the text says why.
    """
    named = outputs if isinstance(outputs, Mapping) else {SINGLE: outputs}

    def register(function: Callable[..., Any]) -> Operator:
        label = name or function.__name__
        shape, inputs, context, params = _read_signature(function, label)
        if shape == "batch" and len(named) > 1:
            raise TypeError(f"operator {label}: an operator on batches has one output")
        try:
            for record in (*named.values(), *(port.record for port in inputs.values())):
                record.arrow_schema()
        except UnsupportedTypeError as error:
            raise TypeError(f"operator {label}: {error}") from error
        return Operator(label, function, shape, inputs, dict(named), tuple(models), params, context, version, calls, needs)

    return register


class _Signature(NamedTuple):
    shape: Shape
    inputs: dict[str, Port]
    context: str | None
    params: type[BaseModel]


def _read_signature(function: Callable[..., Any], label: str) -> _Signature:
    hints = typing.get_type_hints(function, include_extras=True)
    ports: dict[str, Port] = {}
    batch = False
    context: str | None = None
    settings: dict[str, Any] = {}
    for parameter in inspect.signature(function).parameters.values():
        hint = hints.get(parameter.name)
        if hint is None:
            raise TypeError(f"operator {label}: parameter {parameter.name!r} has no annotation")
        if hint is Context:
            context = parameter.name
        elif parameter.kind is parameter.KEYWORD_ONLY:
            default = ... if parameter.default is parameter.empty else parameter.default
            settings[parameter.name] = (hint, default)
        elif typing.get_origin(hint) in (Table, Batch):
            batch = batch or typing.get_origin(hint) is Batch
            ports[parameter.name] = Port(typing.get_args(hint)[0], whole=typing.get_origin(hint) is Table)
        elif isinstance(hint, type) and issubclass(hint, Record):
            ports[parameter.name] = Port(hint, whole=False)
        else:
            raise TypeError(
                f"operator {label}: {parameter.name!r} is neither a record, Table[...], Batch[...] nor Context; "
                "parameters stand behind a `*`"
            )
    streamed = [name for name, port in ports.items() if not port.whole]
    if not ports:
        raise TypeError(f"operator {label}: it has no input")
    if len(streamed) > 1:
        raise TypeError(f"operator {label}: only one input can come row by row; annotate the others with Table[...]")
    shape: Shape = "batch" if batch else "row" if streamed else "whole"
    if shape == "row" and not inspect.isasyncgenfunction(function):
        raise TypeError(f"operator {label}: an operator on rows is an async generator (async def with yield)")
    params = create_model(f"{label} parameters", __config__=ConfigDict(extra="forbid", frozen=True), **settings)
    return _Signature(shape, ports, context, params)


__all__ = [
    "Batch",
    "Context",
    "Model",
    "Operator",
    "Port",
    "Record",
    "Reject",
    "RowRef",
    "StoredFile",
    "Table",
    "derived",
    "operator",
]
