"""Code fingerprints: what an operator does, independent of comments, docstrings and formatting.

Starting at the operator's function, every name that its code reads is followed: functions with all their decorators, classes
with their bases, module constants, closure values, and names imported inside functions. Project code (packages with operators,
and any module that is not installed) counts as normalised syntax, installed packages as name and version. A value without a
canonical form is an error that names it. For paths, see project_files.

The methods that the engine asks of `Params` before a step runs change no row. They do not count, unless the code that was
followed reads an attribute of that name. The finish function counts.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import logging
import sys
import sysconfig
import threading
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.errors import EngineError
from engine.fingerprint.canonical import canonical, is_bare_typing
from engine.fingerprint.parts import Parts, parts_of
from engine.fingerprint.project_files import ProjectFiles, paths_in
from engine.fingerprint.reached import Fingerprint, digest_of
from engine.fingerprint.syntax import Part
from engine.fingerprint.versions import version_of
from engine.operator.declaration.decorator import operator
from engine.operator.declaration.operator import Operator
from engine.operator.declaration.params import METHODS, Params

_Lock = type(threading.Lock())
_ENGINE = ("engine", "registry")
_ASKED = frozenset(METHODS)
_INSTALLED = tuple(sysconfig.get_paths()[key] for key in ("purelib", "platlib"))
_FOLDERS = frozenset({"site-packages", "dist-packages"})
"""The names of folders with installed packages; an environment may see those of the user and of the system, too."""

_PLAIN = "Make it a plain constant, or build it inside the function that uses it."
"""What users can do about a value that cannot be fingerprinted."""


def _is_installed(file: str) -> bool:
    """Whether a file is part of an installed package, so that its version stands for its code."""
    return file.startswith(_INSTALLED) or not _FOLDERS.isdisjoint(Path(file).parts)


class UnstableCodeError(EngineError):
    """A value that an operator's code reads cannot be fingerprinted."""


def fingerprint(root: Any, label: str, project: tuple[str, ...] = ()) -> Fingerprint:
    """Fingerprint an operator, a function or a class.

    Args:
        root: the operator, function or class.
        label: the name of the code in errors.
        project: top-level packages that count as project code even if they are installed.

    Raises:
        UnstableCodeError: a value that the code reads has no canonical form.
    """
    walker = _Walker(label, project)
    walker.value(root, label)
    walker.methods_of_params()
    for parts in walker.files.values():
        if parts:
            parts.save()
    walker.found.files |= walker.paths.contents
    return walker.found


class _Walker:
    def __init__(self, label: str, project: tuple[str, ...]) -> None:
        self.label = label
        self.project = project
        self.found = Fingerprint()
        self.seen: dict[int, str] = {}
        self.kept: list[Any] = []  # keeps seen values alive, so that no two share an id
        self.files: dict[str, Parts | None] = {}  # by module
        self.paths = ProjectFiles()
        self.params: list[type] = []
        self.attributes: set[str] = set()

    # -- what a name refers to ---------------------------------------------------------------------------------

    def value(self, value: Any, name: str) -> str:
        """Follow a value that code reads under `name`; returns a text that represents it and everything it reads."""
        if id(value) in self.seen:
            return self.seen[id(value)]
        followed = self._code(value, name)
        if followed is not None:
            return followed
        text = canonical(value, lambda part: self._code(part, name), self.paths.text)
        if text is None:
            kind = f"{type(value).__module__}.{type(value).__qualname__}"
            raise self._unstable(name, f"a value of type {kind} has no canonical form")
        return self._put(name, text)

    def _code(self, value: Any, name: str) -> str | None:
        """The text of a value that is code; None for data."""
        if typing.get_origin(value) is not None:
            return None  # `list[int]` would pass for its class
        if isinstance(value, Operator):
            if value.finisher:
                self.value(value.finisher.function, f"{name}.finish")
            if value.params_argument:
                self.value(value.params, f"{name}.{value.params_argument}")
            return self._function(value.function)
        if isinstance(value, types.ModuleType):
            return self._module(value)
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, functools.partial):
            return f"partial({self.value(value.func, name)},{self.value((value.args, value.keywords), f'{name}.arguments')})"
        if isinstance(value, types.MethodType):
            return f"method({self.value(value.__func__, name)},{self.value(value.__self__, f'{name}.self')})"
        if isinstance(value, logging.Logger | _Lock) or is_bare_typing(value):
            return repr(type(value))
        if hasattr(value, "__wrapped__"):  # such as the result of functools.cache
            return self.value(value.__wrapped__, name)
        if type(value).__module__.partition(".")[0] in _ENGINE and callable(value):
            return self._package(type(value).__module__)
        installed = getattr(value, "__module__", None) or type(value).__module__
        if callable(value) and hasattr(value, "__name__") and not self._is_project(installed):
            return f"{self._package(installed)}:{value.__name__}"
        return None

    def _package(self, module: str, optional: bool = False) -> str:
        top = module.partition(".")[0]
        if top in sys.stdlib_module_names or top == "builtins":
            return module
        if not optional:
            self.found.required.add(top)
        if top not in self.found.packages:
            self.found.packages[top] = version_of("posttrain-engine" if top in _ENGINE else top)
        return module

    def _is_project(self, module: str | None) -> bool:
        top = (module or "").partition(".")[0]
        if not module or top in _ENGINE:
            return False
        if top in self.project or module == "__main__":
            return True
        if top in sys.stdlib_module_names:
            return False
        loaded = sys.modules.get(module)
        file = getattr(loaded, "__file__", None) or next(iter(getattr(loaded, "__path__", ())), None)
        return bool(file) and not _is_installed(str(file))

    # -- functions, classes, modules ----------------------------------------------------------------------------

    def _function(self, function: types.FunctionType | Callable[..., Any]) -> str:
        if id(function) in self.seen:
            return self.seen[id(function)]
        # Not __module__: functools.wraps gives a wrapper the module of the function it wraps.
        module = function.__globals__.get("__name__") if isinstance(function, types.FunctionType) else None
        if not isinstance(function, types.FunctionType) or not self._is_project(module):
            text = f"{self._package(module or function.__module__)}:{function.__qualname__}"
            # Installed code may still wrap project code: functools.wraps, singledispatch, a decorator's closure.
            return self._follow_inside(function, text)
        name = f"{module}:{function.__code__.co_qualname}"
        self._start(function, name)
        part = self._function_part(function.__code__, function.__globals__, name)
        skipped = {*function.__code__.co_varnames, *function.__code__.co_cellvars, *function.__code__.co_freevars}
        text = f"{part.source(self._declares(function.__globals__))}\n{self._closure(function, name)}"
        text += self._defaults(function, name)
        self.names(part, function.__globals__, skipped)
        return self._finish(function, name, text)

    def _follow_inside(self, function: Any, text: str) -> str:
        self._start(function, text)
        for free, cell in _cells(function):
            if isinstance(cell, types.FunctionType | type):
                self.value(cell, f"{text}.{free}")
            elif free == "registry" and isinstance(cell, Mapping):  # functools.singledispatch
                for kind, implementation in sorted(cell.items(), key=lambda item: repr(item[0])):
                    self.value(implementation, f"{text}[{kind!r}]")
        return text

    def _closure(self, function: types.FunctionType, name: str) -> str:
        parts = []
        for free, cell in _cells(function):
            if not (free == "__class__" and isinstance(cell, type)):
                parts.append(f"# {free} = {self.value(cell, f'{name}.<closure>.{free}')}")
        return "\n".join(parts)

    def _defaults(self, function: types.FunctionType, name: str) -> str:
        given: dict[Any, Any] = dict(enumerate(function.__defaults__ or ())) | (function.__kwdefaults__ or {})
        return "".join(f"\n# default {key} = {self.value(value, f'{name}.<default {key}>')}" for key, value in given.items())

    def _class(self, cls: type) -> str:
        if id(cls) in self.seen:
            return self.seen[id(cls)]
        if not self._is_project(cls.__module__):
            return f"{self._package(cls.__module__)}:{cls.__qualname__}"
        name = f"{cls.__module__}:{cls.__qualname__}"
        self._start(cls, name)
        scope = vars(sys.modules[cls.__module__])
        skipped: frozenset[str] = frozenset()
        if issubclass(cls, Params):
            skipped = _ASKED  # the methods that the engine asks before a step runs; see methods_of_params
            self.params.append(cls)
        part = self._class_part(cls, scope, skipped, name)
        text = part.text
        for base in cls.__bases__:
            text += f"\n# base {self.value(base, name)}"
        # Methods generated by `@dataclass` and the like have no source; they follow from the fields and the decorator.
        for attribute, member in sorted(vars(cls).items()):
            if attribute in skipped:
                continue
            inner = getattr(member, "__func__", getattr(member, "fget", member))
            text += self._files_of(attribute, inner)
            if not isinstance(inner, types.FunctionType) or inner.__module__ != cls.__module__:
                continue
            if attribute in part.binds or self._has_source(inner):
                text += f"\n# {attribute}{self._closure(inner, f'{name}.{attribute}')}"
        self.names(part, scope, set())
        return self._finish(cls, name, text)

    def _files_of(self, attribute: str, member: Any) -> str:
        """The files that a class attribute, or a default of a method or field, names. The source has the rest."""
        if isinstance(member, types.FunctionType):
            member = (member.__defaults__, member.__kwdefaults__) if member.__defaults__ or member.__kwdefaults__ else None
        elif attribute.startswith("__") and attribute != "__pydantic_fields__":
            return ""
        named = filter(None, map(self.paths.text, paths_in(member)))
        return "".join(f"\n# {attribute} names {text}" for text in named)

    def methods_of_params(self) -> None:
        """Follow methods of parameters that the engine asks, if the code that was followed reads an attribute of that name."""
        before = -1
        while before != len(self.found.code):
            before = len(self.found.code)
            for cls in list(self.params):
                for method in sorted(_ASKED & self.attributes & vars(cls).keys()):
                    member = vars(cls)[method]
                    self.value(getattr(member, "__func__", member), f"{cls.__module__}:{cls.__qualname__}.{method}")

    def _has_source(self, function: types.FunctionType) -> bool:
        """Whether a method is in the project's files, such as one added by a decorator of the project."""
        return self._is_project(function.__globals__.get("__name__")) and not function.__code__.co_filename.startswith("<")

    def _module(self, module: types.ModuleType) -> str:
        """A module that is used as a value: all of it counts."""
        if not self._is_project(module.__name__):
            return self._package(module.__name__)
        name = f"{module.__name__}:*"
        if id(module) not in self.seen:
            self._start(module, name)
            part = (self._file(vars(module)) or parts_of("", None)).module()
            self.names(part, vars(module), set())
            return self._finish(module, name, part.text)
        return self.seen[id(module)]

    def _start(self, value: Any, name: str) -> None:
        self.seen[id(value)] = name  # recursion is represented by the name
        self.kept.append(value)

    def _finish(self, value: Any, name: str, text: str) -> str:
        placed = self._put(name, text)
        self.seen[id(value)] = placed
        return placed

    def _put(self, name: str, text: str) -> str:
        """Keep a text under a name; a different text under the same name (two lambdas) gets a number."""
        place, count = name, 1
        while self.found.code.get(place, text) != text:
            count += 1
            place = f"{name}#{count}"
        self.found.code[place] = text
        return f"{place} {digest_of(text)[:16]}"

    def _file(self, scope: Mapping[str, Any]) -> Parts | None:
        """The source file of a module, read once for each fingerprint; None if there is none."""
        module = str(scope.get("__name__"))
        if module not in self.files:
            self.files[module] = _source_file(module)
            self.paths.add_module(module, getattr(sys.modules.get(module), "__file__", None))
        return self.files[module]

    def _function_part(self, code: types.CodeType, scope: Mapping[str, Any], name: str) -> Part:
        file = self._file(scope)
        if file is None:
            raise self._unstable(name, "its source cannot be read", "Define it in a Python file.")
        part = file.function(code)
        if part is None:
            raise self._unstable(name, "its source file changed after it was imported", "Start the program again.")
        return part

    def _class_part(self, cls: type, scope: Mapping[str, Any], without: frozenset[str], name: str) -> Part:
        file = self._file(scope)
        part = file.class_(cls.__qualname__.rpartition(".")[2], without) if file else None
        if part is None:
            raise self._unstable(name, "its source cannot be read", "Define it in a Python file.")
        return part

    def _declares(self, scope: Mapping[str, Any]) -> Callable[[Sequence[str]], bool]:
        """Recognises `@operator(...)` and `@NAME.finish`, whose declarations are in the step key anyway."""

        def check(name: Sequence[str]) -> bool:
            value = scope.get(name[0]) if name else None
            for attribute in name[1:]:
                value = getattr(value, attribute, None)
            return value is operator or isinstance(getattr(value, "__self__", None), Operator)

        return check

    def names(self, part: Part, scope: Mapping[str, Any], skipped: set[str]) -> None:
        """Follow the names that code reads from its module and from its own imports."""
        module = str(scope.get("__name__", "?"))
        inner: dict[str, Any] = {}
        for bound, source, attribute, optional in part.imports:
            absolute = importlib.util.resolve_name(source, str(scope.get("__package__") or ""))
            value = self._imported(absolute, attribute, optional)
            if value is not None:
                inner[bound] = value
        self.attributes.update(part.attributes)
        for head, *rest in part.names:
            if head in inner:
                self._dotted(inner[head], rest, f"{module}:{head}")
            elif head in scope and head not in skipped:
                self._dotted(scope[head], rest, f"{module}:{head}")

    def _imported(self, source: str, attribute: str | None, optional: bool) -> Any:
        """The value that an import inside a function binds; installed packages are recorded by version and not loaded."""
        if source not in sys.modules and not self._may_be_project(source):
            self._package(source, optional)
            return None
        if not self._is_project(source) and not self._may_be_project(source):
            self._package(source, optional)
            return None
        module = importlib.import_module(source)
        if attribute is None:
            return module
        if hasattr(module, attribute):
            return getattr(module, attribute)
        return importlib.import_module(f"{source}.{attribute}")

    def _may_be_project(self, module: str) -> bool:
        top = module.partition(".")[0]
        if top in _ENGINE or top in sys.stdlib_module_names:
            return False
        if top in self.project or self._is_project(module):
            return True
        try:
            spec = importlib.util.find_spec(top)
        except (ImportError, ValueError):
            return False
        places = [spec.origin, *(spec.submodule_search_locations or [])] if spec else []
        return any(place and not _is_installed(str(place)) for place in places)

    def _dotted(self, value: Any, rest: list[str], name: str) -> None:
        """Resolve `helpers.parse.inner` through project modules, and follow the value."""
        while isinstance(value, types.ModuleType) and rest and self._is_project(value.__name__):
            name, value = f"{value.__name__}:{rest[0]}", getattr(value, rest[0], None)
            rest = rest[1:]
        self.value(value, name)

    def _unstable(self, name: str, why: str, advice: str = _PLAIN) -> UnstableCodeError:
        return UnstableCodeError(f"operator {self.label}: cannot fingerprint {name}: {why}. {advice}")


def _cells(function: Any) -> Iterator[tuple[str, Any]]:
    """Names and values of a closure, without names that are not bound yet."""
    code, closure = getattr(function, "__code__", None), getattr(function, "__closure__", None)
    for free, cell in zip(code.co_freevars if code else (), closure or (), strict=True):
        try:
            yield free, cell.cell_contents
        except ValueError:
            continue


def _source_file(name: str) -> Parts | None:
    module = sys.modules.get(name)
    try:
        return parts_of(inspect.getsource(module), getattr(module, "__file__", None)) if module else None
    except (OSError, TypeError):
        return None
