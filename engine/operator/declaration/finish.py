"""What an operator computes from its counters when all rows are done: metrics, and rows of its outputs."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel

from engine.operator.declaration.signature import annotations_of, refuse
from engine.operator.types import Counters, DeclarationError, place_in, place_of, shown
from registry import Metric, Record

_EXPECTED = (
    "expected `def NAME(counts: Counters)`, then the operator's Params or, after a `*`, parameters of the operator by name"
)
_RETURNS = 'expected Iterator[Metric], Iterator[tuple[Literal["OUTPUT"], RECORD]], or both joined by `|`'


@dataclass(frozen=True)
class Finished:
    """What `finish` yielded: metrics, and rows by output."""

    metrics: tuple[Metric, ...] = ()
    rows: Mapping[str, Sequence[Record]] = field(default_factory=dict)


@dataclass(frozen=True)
class Finish:
    """A function that is called once, after a step's last row.

    Attributes:
        outputs: the outputs whose rows the function makes; the operator itself yields nothing to them.
        takes_params: whether it takes the parameters as one object.
        settings: parameters that it takes by name.
    """

    function: Callable[..., Iterable[Any]]
    outputs: tuple[str, ...]
    takes_params: bool
    settings: tuple[str, ...]

    def __call__(self, counts: Counters, params: BaseModel, outputs: Mapping[str, type[Record]]) -> Finished:
        """Call it, and check what it yields.

        Raises:
            DeclarationError: it raised, or yielded something else than metrics and rows of its outputs.
        """
        arguments = [params] if self.takes_params else []
        metrics: list[Metric] = []
        rows: dict[str, list[Record]] = {output: [] for output in self.outputs}
        try:
            made = list(self.function(counts, *arguments, **{name: getattr(params, name) for name in self.settings}))
        except Exception as error:  # whatever an author's function does
            raise self._wrong(f"raised {type(error).__name__}: {error}", place_in(self.function, error)) from error
        for item in made:
            output, row = item if isinstance(item, tuple) and len(item) == 2 else (None, item)
            if isinstance(item, Metric):
                metrics.append(item)
            elif output in rows and isinstance(row, outputs[output]):
                rows[output].append(row)
            elif output in rows:
                raise self._wrong(f"yielded a {type(row).__name__} to {output!r}, which is {outputs[output].type_name()}")
            else:
                listed = "".join(f", or ({each!r}, {outputs[each].type_name()})" for each in self.outputs)
                raise self._wrong(f"yielded {item!r:.200}; expected a Metric{listed}")
        return Finished(tuple(metrics), rows)

    def _wrong(self, why: str, where: str = "") -> DeclarationError:
        return DeclarationError(f"{where or place_of(self.function)}: {self.function.__name__} {why}")


def read_finish(
    function: Callable[..., Iterable[Any]],
    params: type[BaseModel],
    params_argument: str | None,
    outputs: Mapping[str, type[Record]],
) -> Finish:
    """A function decorated with `@NAME.finish`.

    Args:
        function: the function.
        params, params_argument: the operator's, see Signature.
        outputs: the operator's.

    Raises:
        DeclarationError: its signature is not that of a finish function.
    """
    if not inspect.isfunction(function) or inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        refuse(function, f"a finish function is a plain function; {_EXPECTED}")
    counts, *rest = inspect.signature(function).parameters.values() or (None,)
    if counts is None or counts.kind is counts.KEYWORD_ONLY:
        refuse(function, f"it takes no counters; {_EXPECTED}")
    hints = annotations_of(function)
    settings = tuple(each.name for each in rest if each.kind is each.KEYWORD_ONLY)
    whole = [each for each in rest if each.kind is not each.KEYWORD_ONLY]
    if len(whole) > 1 or (whole and params_argument is None) or (settings and params_argument is not None):
        refuse(function, f"it takes {', '.join(each.name for each in rest)} in addition to the counters; {_EXPECTED}")
    if whole and not _takes(hints.get(whole[0].name), params):
        refuse(function, f"{whole[0].name!r} is annotated {shown(hints.get(whole[0].name))}; expected {params.__name__}")
    if unknown := [name for name in settings if name not in params.model_fields]:
        refuse(function, f"the operator has no parameter {unknown[0]!r}; it has {', '.join(params.model_fields) or 'none'}")
    made = tuple(_outputs(function, hints.get("return"), outputs))
    return Finish(function, made, bool(whole), settings)


def _takes(hint: Any, params: type[BaseModel]) -> bool:
    """Whether an argument of this type takes the operator's parameters: it is their class or a base class."""
    return isinstance(hint, type) and issubclass(params, hint)


def _outputs(function: Callable[..., Any], hint: Any, outputs: Mapping[str, type[Record]]) -> Iterable[str]:
    """The outputs whose rows it makes, by its return annotation."""
    parts = typing.get_args(hint)
    if not parts:
        refuse(function, f"its return annotation is {shown(hint) if hint else 'missing'}; {_RETURNS}")
    for part in _members(parts[0]):
        if part is Metric:
            continue
        pair = typing.get_args(part) if typing.get_origin(part) is tuple else ()
        if len(pair) != 2 or typing.get_origin(pair[0]) is not Literal:
            refuse(function, f"its return annotation has {shown(part)}; {_RETURNS}")
        for output in typing.get_args(pair[0]):
            if output not in outputs:
                refuse(function, f"the operator has no output {output!r}; it has {', '.join(outputs)}")
            yield output


def _members(hint: Any) -> Iterable[Any]:
    """The members of a union; the type itself when it is none."""
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
