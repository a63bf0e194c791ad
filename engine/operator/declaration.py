"""The public API for writing an operator: a decorated function whose signature is its contract.

    @operator(outputs={"solved": MathSolution}, models=["teacher"])
    async def solve(problem: MathProblem, ctx: Context, *, attempts: int = 1) -> AsyncIterator[tuple[str, MathSolution]]:
        ...

Parameters may also be one frozen pydantic model, `settings: MySettings`, where validators say how they go together. If the
model has `names()`, those are looked through when a name is misspelt; if it has `notes`, users see them in the plan.

Three shapes, told apart by the signature:

* **row**: the first parameter is a record type. An async generator is called for each row and yields any number of
  rows. Further inputs that are needed whole are annotated `Table[...]`.
* **batch**: the first parameter is `Batch[...]`. A function gets a partition as an Arrow table, with the column `_row`
  (the row's number in the input), and returns a table. If it keeps `_row` (one number a row, or a list of them where it
  puts rows together), each row's lineage is known.
* **whole**: all inputs are `Table[...]`. A generator (async or not) is called once.

What is yielded is a record, or `(output, record)` when there is more than one output.

An input annotated `Table[...] | None = None` may be left out in a pipeline.

An input annotated with `Record` itself takes rows of any type (`Table[Record]`); an output may be declared by an input's
name, `outputs={"kept": "rows"}`, and then has rows of that input's type. The engine puts the types in when it checks the
pipeline.

**Lineage** is known by itself for what comes row by row, and for rows of a `Table` that are yielded as they are or as
copies. For a new record made from rows of a `Table`, say so: `yield derived(Pair(...), chosen, rejected)`. What is not
said is recorded as unknown.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, create_model

from engine.llm.types.capability import Capability
from engine.operator.context import Context, Reject
from engine.provenance import RowRef, derived, marked
from registry import Metric, Model, Record, Report, StoredFile, UnsupportedTypeError

R = TypeVar("R", bound=Record)

Shape = Literal["row", "batch", "whole"]
Counters = Mapping[tuple[str, str], float]
"""(metric, slice) -> the sum of a step's counter over all its rows."""

Summary = Callable[[Counters], Iterable[Metric]]
"""From counters to metrics."""

Closing = Callable[[Counters, Any], Iterable[Record]]
"""From counters and the step's parameters to the rows of an output."""

Foretelling = Callable[[Any, Mapping[str, Model]], Model | None]
"""From the step's parameters and its models by role to the model that it makes, without files."""

SINGLE = "out"
"""The name of an operator's only output when it gives none."""


class Table(Generic[R]):
    """A whole input: records in order, read when asked for. `table.arrow` is the same as one Arrow table.

    Records remember which row they are, so that what is made of them has lineage; `table.ref(n)` stands for row `n` where
    an operator works on the Arrow table. `table.families` numbers the row's families, see `families` of @operator.
    """

    def __init__(self, record: type[R], arrow: pa.Table, port: str = "", families: Sequence[int] = ()) -> None:
        self.record = record
        self.arrow = arrow
        self.port = port
        self.families = families

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
    """An input of an operator: its record type (`Record`: any), whether it is given whole, whether it may be left out."""

    record: type[Record]
    whole: bool
    optional: bool = False

    @property
    def open(self) -> bool:
        """Whether rows of any type may come in here."""
        return self.record is Record


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
    settings: str | None = None
    version: int = 1
    encoders: tuple[str, ...] = ()
    like: Mapping[str, str] = field(default_factory=dict)
    calls: Callable[[Any], Mapping[str, int]] | None = field(default=None, compare=False)
    needs: Callable[[Any], Mapping[str, Sequence[Capability]]] | None = field(default=None, compare=False)
    uses: Callable[[Any], Sequence[str]] | None = field(default=None, compare=False)
    checks: Callable[[Any, Mapping[str, type[Record]]], Sequence[str]] | None = field(default=None, compare=False)
    summary: Summary | None = field(default=None, compare=False)
    closing: Mapping[str, Closing] = field(default_factory=dict, compare=False)
    apart: tuple[tuple[str, str], ...] = ()
    devices: Callable[[Any], int] | None = field(default=None, compare=False)
    families: tuple[str, ...] = ()
    asks: Callable[[Any], int] | None = field(default=None, compare=False)
    foretells: Foretelling | None = field(default=None, compare=False)
    aside: tuple[str, ...] = ()

    @property
    def needed(self) -> tuple[str, ...]:
        """The inputs that a pipeline must give."""
        return tuple(name for name, port in self.inputs.items() if not port.optional)

    @property
    def doc(self) -> str:
        """The docstring, unindented."""
        return inspect.getdoc(self.function) or ""

    def arguments(self, params: BaseModel) -> dict[str, Any]:
        """Parameters as the function takes them: each by its name, or as the one model that it asks for."""
        if self.settings:
            return {self.settings: params}
        return {name: getattr(params, name) for name in type(params).model_fields}

    def used_roles(self, params: BaseModel) -> tuple[str, ...]:
        """The roles that these parameters need a model for."""
        return tuple(self.uses(params)) if self.uses else self.roles

    def calls_per_row(self, params: BaseModel) -> Mapping[str, int]:
        """At most so many model calls a row, by role: what `engine plan` counts before anything is paid."""
        if self.calls:
            return self.calls(params)
        asked = [role for role in self.used_roles(params) if role not in self.encoders]
        return dict.fromkeys(asked if self.shape == "row" else (), 1)

    def typed(self, records: Mapping[str, type[Record]]) -> Operator:
        """The operator with the types of its open inputs put in, and with them those of the outputs that are like them.

        Args:
            records: record types by input; those of inputs that are not open are left as declared.
        """
        inputs = {
            name: replace(port, record=records[name]) if port.open and name in records else port
            for name, port in self.inputs.items()
        }
        outputs = {
            name: inputs[self.like[name]].record if name in self.like else record for name, record in self.outputs.items()
        }
        return replace(self, inputs=inputs, outputs=outputs)


def operator(
    *,
    outputs: Mapping[str, type[Record] | str] | type[Record],
    models: Sequence[str] = (),
    encoders: Sequence[str] = (),
    uses: Callable[[Any], Sequence[str]] | None = None,
    calls: Callable[[Any], Mapping[str, int]] | None = None,
    needs: Callable[[Any], Mapping[str, Sequence[Capability]]] | None = None,
    checks: Callable[[Any, Mapping[str, type[Record]]], Sequence[str]] | None = None,
    summary: Summary | None = None,
    closing: Mapping[str, Closing] | None = None,
    apart: Sequence[tuple[str, str]] = (),
    devices: Callable[[Any], int] | None = None,
    families: Sequence[str] = (),
    asks: Callable[[Any], int] | None = None,
    foretells: Foretelling | None = None,
    aside: Sequence[str] = (),
    name: str | None = None,
    version: int = 1,
) -> Callable[[Callable[..., Any]], Operator]:
    """Register a function as an operator.

    Args:
        outputs: record types by output name, or one record type for an operator with one output. An input's name in place
            of a type means rows of that input's type.
        models: roles that the pipeline's models fill; the operator finds them in `ctx.models`.
        encoders: roles that sentence encoders fill; the operator finds them in `ctx.encoders`.
        uses: from the parameters to the roles that are needed with them (default: all).
        calls: from the parameters to the most model calls a row needs, by role (default: one a role).
        needs: from the parameters to what the models' servers must be able to do, by role; what one of them cannot is said
            before the step starts.
        checks: from the parameters and the inputs' record types to what is wrong with them, as texts; said before anything
            runs.
        summary: from the sums of the step's counters to further metrics, such as shares and their intervals.
        closing: outputs whose rows are made from the sums of the step's counters, when all its input rows are done; the
            operator yields nothing to them.
        apart: pairs of roles that different models should fill, such as a judge and whom it judges; where one model fills
            both, users are warned.
        devices: from the parameters to how many GPUs (or processes without one) the operator itself uses at once, through
            Ray. With more than one, the step's `resources` are those of each, and `ctx.device` has them.
        families: inputs, given whole, of which it is to be known which rows were made from one row of a source, such as
            paraphrases of a question: `table.families` has a number for each row, the same for those.
        asks: from the parameters to how many bytes a prompt has at most besides the row's own text. Without it the bound of
            the price allows for all texts in the operator's code, whole inputs, and answers to the row's other calls.
        foretells: from the parameters and the models by role (those that are known) to the model that the operator makes, as
            far as it can be known without making it. It raises ValueError for models that it cannot use; this is said before
            anything runs.
        aside: inputs, given whole, that other rows are only compared with or looked up in, such as a test set: their rows that
            lead to no output are counted as unused, not as filtered.
        name: the operator's name, if it is not the function's.
        version: to be raised when the operator's meaning changes in a way that its code does not show.

    Raises:
        TypeError: when the signature is not one of the three shapes; the text says why.
    """
    declared = outputs if isinstance(outputs, Mapping) else {SINGLE: outputs}
    like = {output: record for output, record in declared.items() if isinstance(record, str)}

    def register(function: Callable[..., Any]) -> Operator:
        label = name or function.__name__
        shape, inputs, context, params, settings = _read_signature(function, label)
        if shape == "batch" and len(declared) > 1:
            raise TypeError(f"operator {label}: an operator on batches has one output")
        for output, port in like.items():
            if port not in inputs:
                raise TypeError(f"operator {label}: output {output!r} is to be like {port!r}, and there is no such input")
        for output in (closing or {}).keys() - declared.keys():
            raise TypeError(f"operator {label}: `closing` makes {output!r}, which is none of its outputs")
        for port in aside:
            if port not in inputs or not inputs[port].whole:
                raise TypeError(f"operator {label}: `aside` names {port!r}, which is no input that it is given whole")
        for port in families:
            if port not in inputs or not inputs[port].whole:
                raise TypeError(f"operator {label}: families are asked of {port!r}, which is no input that it is given whole")
        named = {output: inputs[each].record if isinstance(each, str) else each for output, each in declared.items()}
        try:
            for record in (*named.values(), *(port.record for port in inputs.values())):
                if record is not Record:
                    record.arrow_schema()
        except UnsupportedTypeError as error:
            raise TypeError(f"operator {label}: {error}") from error
        return Operator(
            name=label,
            function=function,
            shape=shape,
            inputs=inputs,
            outputs=named,
            roles=(*models, *encoders),
            params=params,
            settings=settings,
            context=context,
            version=version,
            encoders=tuple(encoders),
            like=like,
            calls=calls,
            needs=needs,
            uses=uses,
            checks=checks,
            summary=summary,
            closing=dict(closing or {}),
            apart=tuple(apart),
            devices=devices,
            families=tuple(families),
            asks=asks,
            foretells=foretells,
            aside=tuple(aside),
        )

    return register


class _Signature(NamedTuple):
    shape: Shape
    inputs: dict[str, Port]
    context: str | None
    params: type[BaseModel]
    settings: str | None


def _read_signature(function: Callable[..., Any], label: str) -> _Signature:
    hints = typing.get_type_hints(function, include_extras=True)
    ports: dict[str, Port] = {}
    batch = False
    context: str | None = None
    settings: dict[str, Any] = {}
    model: type[BaseModel] | None = None
    whole_settings: str | None = None
    for parameter in inspect.signature(function).parameters.values():
        hint = hints.get(parameter.name)
        if hint is None:
            raise TypeError(f"operator {label}: parameter {parameter.name!r} has no annotation")
        if hint is Context:
            context = parameter.name
        elif parameter.kind is parameter.KEYWORD_ONLY:
            default = ... if parameter.default is parameter.empty else parameter.default
            settings[parameter.name] = (hint, default)
        elif (inner := _optional(hint)) and parameter.default is None:
            ports[parameter.name] = Port(typing.get_args(inner)[0], whole=True, optional=True)
        elif typing.get_origin(hint) in (Table, Batch):
            batch = batch or typing.get_origin(hint) is Batch
            ports[parameter.name] = Port(typing.get_args(hint)[0], whole=typing.get_origin(hint) is Table)
        elif isinstance(hint, type) and issubclass(hint, Record):
            ports[parameter.name] = Port(hint, whole=False)
        elif isinstance(hint, type) and issubclass(hint, BaseModel) and model is None:
            model, whole_settings = hint, parameter.name
        else:
            raise TypeError(
                f"operator {label}: {parameter.name!r} is neither a record, Table[...], Batch[...] nor Context; "
                "parameters stand behind a `*`"
            )
    streamed = [name for name, port in ports.items() if not port.whole]
    if all(port.optional for port in ports.values()):
        raise TypeError(f"operator {label}: it has no input that must be given")
    if len(streamed) > 1:
        raise TypeError(f"operator {label}: only one input can come row by row; annotate the others with Table[...]")
    shape: Shape = "batch" if batch else "row" if streamed else "whole"
    if shape == "row" and not inspect.isasyncgenfunction(function):
        raise TypeError(f"operator {label}: an operator on rows is an async generator (async def with yield)")
    if model:
        if settings:
            raise TypeError(
                f"operator {label}: its parameters are the fields of {model.__name__}, or stand behind a `*`, not both"
            )
        params = model
    else:
        params = create_model(
            f"{label} parameters", __config__=ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False), **settings
        )
    return _Signature(shape, ports, context, params, whole_settings)


def _optional(hint: Any) -> Any:
    """The `Table[...]` of `Table[...] | None`."""
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return None
    tables = [each for each in typing.get_args(hint) if typing.get_origin(each) is Table]
    return tables[0] if len(tables) == 1 and set(typing.get_args(hint)) == {tables[0], type(None)} else None


__all__ = [
    "Batch",
    "Context",
    "Counters",
    "Metric",
    "Model",
    "Operator",
    "Port",
    "Record",
    "Reject",
    "Report",
    "RowRef",
    "StoredFile",
    "Table",
    "derived",
    "operator",
]
