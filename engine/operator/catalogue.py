"""Finds operators, record types and generators: all that stands in packages named by the entry point `engine.operators`."""

from __future__ import annotations

import importlib
import pkgutil
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

from engine.errors import EngineError
from engine.operator.declaration import Operator
from engine.operator.generators import Generator
from engine.operator.types import DeclarationError
from registry import Model, Record, Report

GROUP = "engine.operators"


@dataclass(frozen=True)
class Catalogue:
    """All that pipelines can name."""

    operators: Mapping[str, Operator]
    records: Mapping[str, type[Record]]
    generators: Mapping[str, Generator]


@cache
def catalogue() -> Catalogue:
    """Load every package of the entry-point group; raises EngineError when two define the same name."""
    operators: dict[str, Operator] = {}
    records: dict[str, type[Record]] = {"Model": Model, "Report": Report}
    generators: dict[str, Generator] = {}
    for root in packages():
        for module in _modules(root):
            for value in vars(module).values():
                if isinstance(value, Operator):
                    _add(operators, value.name, value, "operator")
                elif isinstance(value, Generator):
                    _add(generators, value.name, value, "generator")
                elif isinstance(value, type) and issubclass(value, Record) and value.__module__ == module.__name__:
                    _add(records, value.type_name(), value, "record type")
    return Catalogue(operators, records, generators)


def packages() -> list[str]:
    """The packages that bring operators, by module name."""
    return sorted({point.value for point in entry_points(group=GROUP)})


def _modules(name: str) -> Iterator[ModuleType]:
    root = _import(name)
    yield root
    for info in pkgutil.walk_packages(getattr(root, "__path__", ()), f"{name}."):
        yield _import(info.name)


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except DeclarationError as error:  # names its place
        raise EngineError(f"the operators in {name!r} cannot be loaded: {error}") from error
    except Exception as error:  # whatever a module of operators does while it is imported
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if "importlib" not in frame.filename and not frame.filename.startswith(__file__)]
        where = f" ({own[-1].filename}:{own[-1].lineno})" if own else ""
        raise EngineError(f"the operators in {name!r} cannot be loaded: {type(error).__name__}: {error}{where}") from error


def _add(known: dict[str, Any], name: str, value: Any, what: str) -> None:
    if known.setdefault(name, value) is not value:
        raise EngineError(f"two installed packages define the {what} {name!r}; uninstall one or rename its {what}")
