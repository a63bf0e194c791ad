"""What packages define, read from their source files: nothing is imported to find a name.

A definition is recognised by its form, at the left margin of a module:

    @operator(...)                       class Ticket(Record):                tickets = Generator("tickets", ...)
    async def solve(...):                    text: str

A class counts as a record type when one of its bases does. What is defined in another form (by a loop, by `setattr`) is found
by importing the package's modules, which `catalogue` does for names that are not in any source file. For the same reason a
match in a docstring does no harm: the catalogue imports the module and looks.
"""

from __future__ import annotations

import importlib.util
import pkgutil
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Literal, NamedTuple

from engine.packages.local_modules import local_roots, local_sources

GROUP = "engine.operators"
"""The entry points of packages that bring operators."""

Kind = Literal["operator", "record type", "generator"]

_DEFINITION = re.compile(
    r"^@(?:\w+\.)*operator\b(?P<decorators>(?:(?!^(?:async\s+)?def\s|^class\s).)*)^(?:async\s+)?def\s+(?P<operator>\w+)"
    r"|^class\s+(?P<class>\w+)\s*\((?P<bases>[^)]*)\)"
    r"|^\w+(?:\s*:[^=\n]+)?\s*=\s*(?:\w+\.)*Generator\(\s*(?:name\s*=\s*)?[\"'](?P<generator>[^\"']+)[\"']",
    re.MULTILINE | re.DOTALL,
)
_SUBSCRIPT = re.compile(r"\[[^\]]*\]")


@dataclass(frozen=True)
class Definition:
    """Something that pipelines can name, and the module that (as far as its source shows) defines it."""

    kind: Kind
    name: str
    package: str
    module: str

    @property
    def full_name(self) -> str:
        """`package:name`, which is unambiguous whatever packages are installed."""
        return f"{self.package}:{self.name}"


class _Class(NamedTuple):
    name: str
    bases: tuple[str, ...]
    package: str
    module: str


def packages() -> tuple[str, ...]:
    """The packages that bring operators, by module name: the values of the entry points, and files beside the pipeline."""
    return tuple(dict.fromkeys((*_installed(), *local_roots())))


@cache
def _installed() -> tuple[str, ...]:
    return tuple(sorted({point.value for point in entry_points(group=GROUP)}))


def definitions(roots: Iterable[str]) -> list[Definition]:
    """All definitions in the source files of packages, in the order of packages and modules."""
    found: list[Definition] = []
    classes: list[_Class] = []
    for package in roots:
        for module, source in sources(package):
            for match in _DEFINITION.finditer(source):
                if match["operator"]:
                    found.append(Definition("operator", match["operator"], package, module))
                elif match["generator"]:
                    found.append(Definition("generator", match["generator"], package, module))
                else:
                    classes.append(_Class(match["class"], _names(match["bases"]), package, module))
    return found + [Definition("record type", each.name, each.package, each.module) for each in _records(classes)]


def sources(package: str) -> Iterator[tuple[str, str]]:
    """(module, source text) of a package and everything in it; other files than Python source are left out."""
    if package in local_roots():
        yield from local_sources(package)
        return
    for module, file in _source_files(package):
        yield module, file.read_text(encoding="utf-8", errors="replace")


def _source_files(package: str) -> Iterator[tuple[str, Path]]:
    try:
        spec = importlib.util.find_spec(package)
    except ImportError:  # a parent package that cannot be imported: importing it says why, when something in it is used
        return
    if spec is None:
        return
    if spec.origin and spec.origin.endswith(".py"):
        yield package, Path(spec.origin)
    for folder in spec.submodule_search_locations or ():
        yield from _files_in(Path(folder), package)


def _files_in(folder: Path, package: str) -> Iterator[tuple[str, Path]]:
    for info in pkgutil.iter_modules([str(folder)]):
        name = f"{package}.{info.name}"
        inner = folder / info.name
        file = inner / "__init__.py" if info.ispkg else folder / f"{info.name}.py"
        if file.is_file():
            yield name, file
        if info.ispkg:
            yield from _files_in(inner, name)


def _names(bases: str) -> tuple[str, ...]:
    """`Record` and `Batch` of `registry.Record, Batch[T]`."""
    return tuple(base.strip().rpartition(".")[2] for base in _SUBSCRIPT.sub("", bases).split(","))


def _records(classes: list[_Class]) -> list[_Class]:
    """The classes that derive from a record type."""
    known = {"Record", "Artifact", "Model", "Report"}
    while more := {each.name for each in classes if each.name not in known and known.intersection(each.bases)}:
        known |= more
    return [each for each in classes if known.intersection(each.bases)]
