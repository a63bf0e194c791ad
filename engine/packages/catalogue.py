"""What pipelines can name: operators, record types and generators of the packages with an entry point `engine.operators`.

A definition has a full name, `package:name`, where the package is the one that the entry point names (`operators`,
`acme.ops`). The bare name works as long as only one package has it. Modules are imported when something in them is used, so
a module that fails to import breaks only the pipelines that name what it defines.
"""

from __future__ import annotations

import importlib
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property, lru_cache
from types import ModuleType
from typing import Any, TypeVar

from engine.errors import EngineError, did_you_mean
from engine.operator.declaration.operator import Operator
from engine.operator.generators import Generator
from engine.operator.types import DeclarationError
from engine.packages.definitions import GROUP, Definition, Kind, definitions, packages, sources
from engine.packages.local_modules import local_digest, local_roots
from registry import Model, Record, Report

T = TypeVar("T")


class AmbiguousNameError(EngineError):
    """A name means more than one thing; the text lists the names to choose from."""


class BrokenModuleError(EngineError):
    """A module of a package cannot be imported; the text has the file and line that failed."""


class Names(Mapping[str, T]):
    """Definitions of one kind by name, bare or full; a module is imported when something in it is looked up.

    Iterating yields the shortest name of each: bare where it is unique, full otherwise. A look-up raises KeyError for an
    unknown name, AmbiguousNameError for a bare name of several packages, and BrokenModuleError.
    """

    def __init__(self, kind: Kind, index: _Index) -> None:
        self._kind = kind
        self._index = index

    def __getitem__(self, name: str) -> T:
        found = self._index.find(self._kind, name)
        if not found:
            raise KeyError(name)
        full_names = sorted({definition.full_name for definition in found})
        if len(full_names) > 1:
            raise AmbiguousNameError(
                f"{len(full_names)} packages define the {self._kind} {name!r}: write {' or '.join(full_names)}"
            )
        if len(found) > 1:
            modules = " and in ".join(sorted(definition.module for definition in found))
            raise AmbiguousNameError(f"the {self._kind} {full_names[0]} is defined in {modules}; rename one of them")
        [value] = found.values()
        return value  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[str]:
        return iter(self.by_full_name().values())

    def __len__(self) -> int:
        return len(self.by_full_name())

    def by_full_name(self) -> dict[str, str]:
        """The shortest name of each definition by its full name, sorted; nothing is imported for it."""
        names = sorted({(each.name, each.full_name) for each in self._index.known() if each.kind == self._kind})
        count = Counter(name for name, _ in names)
        return {full: name if count[name] == 1 else full for name, full in names}

    def hint(self, name: str, otherwise: str = "") -> str:
        """The hint for an unknown name: the closest one, and modules that could not be imported."""
        names = self.by_full_name()
        closest = did_you_mean(name, names if ":" in name else names.values(), otherwise)
        return "\n    ".join([*([closest] if closest else []), *map(str, self._index.broken)])


class Catalogue:
    """Everything that pipelines can name."""

    def __init__(self, roots: Iterable[str]) -> None:
        self._index = _Index(roots)
        self.operators: Names[Operator] = Names("operator", self._index)
        self.records: Names[type[Record]] = Names("record type", self._index)
        self.generators: Names[Generator] = Names("generator", self._index)

    def load_all(self) -> list[BrokenModuleError]:
        """Import every module of every package, to find definitions that no source file shows; returns what went wrong."""
        return self._index.load_all()

    def load_local(self) -> Iterator[tuple[str, BrokenModuleError]]:
        """Import the files beside the pipeline that is in use; yields the errors, each with the name of the file or folder."""
        for root in local_roots():
            for error in self._index.load(root):
                yield root, error


def catalogue() -> Catalogue:
    """The catalogue of the installed packages, and of the files beside the pipeline that is in use."""
    return _catalogue(packages(), local_digest())


@lru_cache(maxsize=4)
def _catalogue(roots: tuple[str, ...], local: str) -> Catalogue:
    return Catalogue(roots)


def full_name(value: Operator | Generator | type[Record]) -> str:
    """The unambiguous name: `package:name`."""
    return f"{_package(_home(value), packages())}:{_bare_name(value)}"


class _Index:
    """Definitions with what they define: first as source files show them, then as modules have them."""

    def __init__(self, roots: Iterable[str]) -> None:
        self.broken: list[BrokenModuleError] = []
        self._roots = tuple(roots)
        self._all_loaded = False
        self._objects: dict[Definition, Any] = {
            Definition("record type", each.type_name(), "registry", each.__module__): each for each in (Model, Report)
        }

    @cached_property
    def _shown(self) -> list[Definition]:
        return definitions(self._roots)

    def find(self, kind: Kind, name: str) -> dict[Definition, Any]:
        """All definitions that a name, bare or full, can mean. All modules are imported if no source file shows the name."""
        package, colon, bare = name.rpartition(":")

        def wanted(each: Definition) -> bool:
            return each.kind == kind and each.name == bare and (not colon or each.package == package)

        for definition in filter(wanted, self._shown):
            if definition not in self._objects:
                self._load(definition.package, definition.module)
        if not any(map(wanted, self._objects)):
            self.load_all()
        return {each: value for each, value in self._objects.items() if wanted(each)}

    def known(self) -> list[Definition]:
        """All definitions, as far as they are known without importing anything for it."""
        return [*self._objects, *(() if self._all_loaded else self._shown)]

    def load_all(self) -> list[BrokenModuleError]:
        """Import every module; returns what went wrong."""
        if not self._all_loaded:
            for package in self._roots:
                self.broken += self.load(package)
            self._all_loaded = True
        return self.broken

    def load(self, package: str) -> list[BrokenModuleError]:
        """Import every module of a package; returns what went wrong."""
        broken = []
        # A package without a source file is one that its entry point misspells: importing it says so.
        for module in [module for module, _ in sources(package)] or [package]:
            try:
                self._load(package, module)
            except BrokenModuleError as error:
                broken.append(error)
        return broken

    def _load(self, package: str, name: str) -> None:
        module = _import(name)
        for value in vars(module).values():
            kind = _kind(value, module)
            if kind is not None and not any(known is value for known in self._objects.values()):
                home = _home(value)
                self._objects[Definition(kind, _bare_name(value), _package(home, (*self._roots, package)), home)] = value


def _kind(value: Any, module: ModuleType) -> Kind | None:
    if isinstance(value, Operator):
        return "operator"
    if isinstance(value, Generator):
        return "generator"
    if isinstance(value, type) and issubclass(value, Record) and value.__module__ == module.__name__:
        return "record type"
    return None


def _bare_name(value: Operator | Generator | type[Record]) -> str:
    return value.type_name() if isinstance(value, type) else value.name


def _home(value: Operator | Generator | type[Record]) -> str:
    """The module that defines something: a module may also have it because it imported it."""
    return value.__module__ if isinstance(value, type) else value.function.__module__


def _package(module: str, roots: Iterable[str]) -> str:
    """The package of a module: the longest of the roots that it is in; else its top-level package."""
    inside = [root for root in roots if module == root or module.startswith(f"{root}.")]
    return max(inside, key=len, default=module.partition(".")[0])


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except DeclarationError as error:  # names its place
        raise BrokenModuleError(f"the operators in {name!r} cannot be loaded: {error}") from error
    except (Exception, SystemExit) as error:  # whatever a module of operators does while it is imported
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            raise BrokenModuleError(f"an entry point {GROUP!r} names the module {name!r}, which does not exist") from error
        what = error.msg if isinstance(error, SyntaxError) else error
        if isinstance(error, ModuleNotFoundError) and name.partition(".")[0] in local_roots():
            what = f"{error} (a file beside the pipeline must be named under `operators:`, too)"
        raise BrokenModuleError(
            f"the module {name!r} cannot be imported: {type(error).__name__}: {what}{_where(error)}"
        ) from error


def _where(error: BaseException) -> str:
    """The file and line of an error of an import, in brackets."""
    if isinstance(error, SyntaxError):
        return f" ({error.filename}:{error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "importlib" not in frame.filename and not frame.filename.startswith(__file__)]
    return f" ({own[-1].filename}:{own[-1].lineno})" if own else ""
