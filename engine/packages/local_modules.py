"""Operators in files beside the pipeline file, which are sent to the workers as source text.

One set of local modules is in use in a process at a time: that of the pipeline that was checked or run last.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import CodeType, ModuleType

from pydantic import BaseModel, ConfigDict

from engine.errors import EngineError
from registry.storage.checked_json import json_digest

MAX_BYTES = 4 << 20
"""The maximum size of the source text of one entry, in bytes. A larger entry would contain more than operators."""


class LocalModule(BaseModel):
    """The source of a module.

    Attributes:
        name: the name under which it is imported.
        file: the path that it was read from, for messages.
        source: its source text.
        package: whether it is the `__init__.py` of a package.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    file: str
    source: str
    package: bool = False


LocalModules = tuple[LocalModule, ...]


def read_local_modules(path: str, base_dir: Path) -> LocalModules:
    """The module of a Python file, or the modules of a folder with an `__init__.py`.

    Raises:
        EngineError: there is no such file, or it cannot be a module; the text says why and what to do.
    """
    place = base_dir / path
    name = place.name.removesuffix(".py")
    if "://" in path:
        raise EngineError(f"{path} is a URL; operators are files on this machine")
    if place.is_dir():
        if not (place / "__init__.py").is_file():
            raise EngineError(f"the folder {path} has no __init__.py, so it is not a package; add one, or name a file in it")
        files = {_module_name(name, place, file): file for file in sorted(place.rglob("*.py"))}
    elif place.is_file() and place.suffix == ".py":
        files = {name: place}
    else:
        kind = "is not a Python file (.py)" if place.exists() else "does not exist"
        raise EngineError(f"{path} {kind}; a file of operators is named relative to the pipeline file")
    for module in files:
        if not all(part.isidentifier() for part in module.split(".")):
            raise EngineError(f"{path}: {module!r} cannot be the name of a module; use letters, digits and _")
    if (other := _installed(name)) and not _same(other, files[name]):
        raise EngineError(f"{path}: {name} is also the name of an installed module ({other}); rename the file")
    found = tuple(_read(module, file, package=file.name == "__init__.py") for module, file in files.items())
    if sum(len(each.source) for each in found) > MAX_BYTES:
        raise EngineError(f"{path} has more than {MAX_BYTES >> 20} MiB of source; install it as a package instead")
    return found


def use_local_modules(modules: LocalModules) -> None:
    """Make these modules importable, in place of the previous ones."""
    if modules == _finder.modules:
        return
    for name in _finder.by_name:
        sys.modules.pop(name, None)
    _finder.use(modules)
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    importlib.invalidate_caches()


def local_roots() -> tuple[str, ...]:
    """The top-level names of the local modules in use."""
    return tuple(sorted({name.partition(".")[0] for name in _finder.by_name}))


def local_sources(root: str) -> Iterator[tuple[str, str]]:
    """(module, source) of a local file or package."""
    for module in _finder.modules:
        if module.name == root or module.name.startswith(f"{root}."):
            yield module.name, module.source


def local_digest() -> str:
    """A digest of the local modules in use."""
    return _finder.digest


class _Loader(importlib.abc.InspectLoader):
    def __init__(self, module: LocalModule) -> None:
        self._module = module

    def get_source(self, fullname: str) -> str:
        return self._module.source

    def is_package(self, fullname: str) -> bool:
        return self._module.package

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self._module.source, self._module.file)


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self) -> None:
        self.use(())

    def use(self, modules: LocalModules) -> None:
        self.modules = modules
        self.by_name = {module.name: module for module in modules}
        self.digest = json_digest([[module.name, module.file, module.source] for module in modules])

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        module = self.by_name.get(fullname)
        if module is None:
            return None
        spec = importlib.machinery.ModuleSpec(fullname, _Loader(module), origin=module.file, is_package=module.package)
        spec.has_location = True
        return spec


_finder = _Finder()


def _module_name(package: str, folder: Path, file: Path) -> str:
    parts = file.relative_to(folder).with_suffix("").parts
    return ".".join([package, *(parts[:-1] if parts[-1] == "__init__" else parts)])


def _read(name: str, file: Path, *, package: bool) -> LocalModule:
    try:
        source = importlib.util.decode_source(file.read_bytes())
    except (OSError, UnicodeDecodeError, SyntaxError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise EngineError(f"cannot read {file}: {why}") from error
    return LocalModule(name=name, file=str(file.absolute()), source=source, package=package)


def _installed(name: str) -> str | None:
    """Where a module of this name would come from without the local ones."""
    if name in sys.stdlib_module_names:
        return "Python's own"
    for finder in sys.meta_path:
        if finder is not _finder and (spec := finder.find_spec(name, None)):
            return spec.origin or next(iter(spec.submodule_search_locations or ()), name)
    return None


def _same(place: str, file: Path) -> bool:
    return Path(place).is_absolute() and file.exists() and Path(place).resolve() in (file.resolve(), file.parent.resolve())
