"""What a declaration consists of: shapes, inputs, roles, and the types that methods of `Params` and `finish` use."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from engine.errors import EngineError
from engine.llm.types.capability import Capability
from engine.operator.tables import Grouped, Lookup, Table
from registry import Record

Shape = Literal["row", "batch", "whole"]
"""How an operator gets its rows: one at a time, as Arrow tables, or all at once."""

Output = tuple[str, Record]
"""What an operator with several outputs yields: the output's name and a record."""

Counters = Mapping[tuple[str, str], float]
"""(metric, slice) -> the sum of `ctx.count` over all rows of a step."""

Roles = Collection[str]
"""Names of roles."""

Calls = Mapping[str, int]
"""Role -> the largest number of model calls for one row."""

Capabilities = Mapping[str, Sequence[Capability]]
"""Role -> what the server of its model must be able to do: `n`, `logprobs`, `response_format`, `sampling`, `images` or `tools`.
"""

InputTypes = Mapping[str, type[Record]]
"""Input -> the record type of its rows."""

OutputTypes = Mapping[str, type[Record]]
"""Output -> the record type of its rows."""


class Wrong(NamedTuple):
    """What is wrong with a parameter: the text, and where, as keys and positions below `with`."""

    text: str
    at: tuple[str | int, ...] = ()


SINGLE = "out"
"""The name of an operator's only output when the declaration gives none."""

NAMED = "*"
"""In a declaration: any number of outputs, which the parameters name."""


class DeclarationError(EngineError):
    """An operator is declared or used wrongly by its own code. The text starts with the file and the line."""


@dataclass(frozen=True)
class Port:
    """An input of an operator.

    Attributes:
        record: the type of its rows; `Record` means any type.
        table: how it is annotated when it is given whole (`Table`, `Grouped`, `Lookup`); None when it is given row by row
            or batch by batch.
        optional: whether a pipeline may leave it out.
        named: whether it stands for any number of inputs, which the pipeline names.
    """

    record: type[Record]
    table: type[Table[Any]] | None = None
    optional: bool = False
    named: bool = False

    @property
    def whole(self) -> bool:
        """Whether the operator gets all rows at once."""
        return self.table is not None

    @property
    def open(self) -> bool:
        """Whether rows of any type may come in here."""
        return self.record is Record

    @property
    def grouped(self) -> bool:
        """Whether the operator asks which rows come from one source row."""
        return self.table is not None and issubclass(self.table, Grouped)

    @property
    def lookup(self) -> bool:
        """Whether rows without an output are unused rather than filtered."""
        return self.table is not None and issubclass(self.table, Lookup)


@dataclass(frozen=True)
class Role:
    """A model that an operator asks: a chat model, or (`encoder`) a sentence encoder; `optional` ones may be None."""

    encoder: bool
    optional: bool


def place_of(function: Callable[..., Any]) -> str:
    """The file and line of a function, as `FILE:LINE`."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code:
        return f"{code.co_filename}:{code.co_firstlineno}"
    try:
        return f"{inspect.getsourcefile(function)}:{inspect.getsourcelines(function)[1]}"
    except (OSError, TypeError):  # it has no source of its own, such as a functools.partial
        return repr(function)


def place_in(function: Callable[..., Any], error: BaseException) -> str:
    """Where an error passed through a function's file, innermost first, as `FILE:LINE`; else the function's own place."""
    where = place_of(function)
    file = where.rpartition(":")[0]
    lines = [number for frame, number in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == file]
    return f"{file}:{lines[-1]}" if lines else where


def shown(hint: Any) -> str:
    """An annotation as one writes it."""
    return hint.__name__ if isinstance(hint, type) and not getattr(hint, "__args__", None) else str(hint).replace("typing.", "")
