"""Code fingerprints: what an operator does, independent of comments, docstrings and formatting.

From the operator's function on, every name that its code reads is followed: functions, classes with their bases,
module constants, closure values, and names imported inside functions. Project code (the packages that bring operators,
and any module that is not installed) is taken as normalised syntax; installed packages by name and version. A value
that has no stable form is an error that names it.
"""

from __future__ import annotations

import ast
import builtins
import enum
import functools
import hashlib
import importlib
import importlib.util
import inspect
import logging
import pathlib
import re
import sys
import sysconfig
import textwrap
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from importlib.metadata import PackageNotFoundError, packages_distributions
from importlib.metadata import version as distribution_version
from typing import Any

from pydantic import BaseModel

from engine.operator import Operator
from engine.problems import EngineError

_ENGINE = ("engine", "registry")
_INSTALLED = tuple(sysconfig.get_paths()[key] for key in ("purelib", "platlib"))
_PLAIN = (str, int, float, complex, bytes, bool, type(None), type(Ellipsis))


class UnstableCodeError(EngineError):
    """Something that an operator's code reaches cannot be fingerprinted."""


@dataclass
class Fingerprint:
    """The code that an operator reaches.

    Attributes:
        code: qualified name -> normalised source of a function or class, or canonical text of a constant.
        packages: installed packages by name -> version.
    """

    code: dict[str, str] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """For a step key: hashes of the code, and the packages."""
        hashes = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in sorted(self.code.items())}
        return {"code": hashes, "packages": dict(sorted(self.packages.items()))}


def fingerprint(operator: Operator, project: tuple[str, ...] = ()) -> Fingerprint:
    """Fingerprint an operator.

    Args:
        operator: what to follow.
        project: top-level packages that count as project code even when installed.

    Raises:
        UnstableCodeError: when a value that the code reads has no stable form.
    """
    walker = _Walker(operator.name, project)
    walker.function(operator.function)
    return walker.found


class _Walker:
    def __init__(self, operator: str, project: tuple[str, ...]) -> None:
        self.operator = operator
        self.project = project
        self.found = Fingerprint()
        self.seen: set[int] = set()

    # -- what a name stands for ---------------------------------------------------------------------------------

    def value(self, value: Any, name: str) -> None:
        """Follow a value that code reads under `name`."""
        if isinstance(value, Operator):
            self.function(value.function)
        elif isinstance(value, types.ModuleType):
            self.package(value.__name__)
        elif isinstance(value, types.FunctionType):
            self.function(value)
        elif isinstance(value, functools.partial):
            self.value(value.func, f"{name}.func")
            self.constant((value.args, value.keywords), name)
        elif isinstance(value, types.MethodType):
            self.value(value.__func__, name)
            self.value(value.__self__, f"{name}.self")
        elif hasattr(value, "__wrapped__"):
            self.value(value.__wrapped__, name)
        elif isinstance(value, type):
            self.cls(value)
        elif isinstance(value, types.BuiltinFunctionType):
            self.package(getattr(value, "__module__", None) or "builtins")
        elif isinstance(value, logging.Logger) or _is_bare_typing(value):
            return
        else:
            self.constant(value, name)

    def package(self, module: str) -> None:
        top = module.partition(".")[0]
        if top in sys.stdlib_module_names or top == "builtins" or top in self.found.packages:
            return
        distribution = "posttrain-engine" if top in _ENGINE else top
        self.found.packages[top] = _version(distribution)

    def is_project(self, module: str | None) -> bool:
        if not module:
            return False
        top = module.partition(".")[0]
        if top in _ENGINE:
            return False
        if top in self.project or module == "__main__":
            return True
        if top in sys.stdlib_module_names:
            return False
        file = getattr(sys.modules.get(module), "__file__", None)
        return bool(file) and not str(file).startswith(_INSTALLED)

    # -- functions and classes ----------------------------------------------------------------------------------

    def function(self, function: Callable[..., Any]) -> None:
        function = inspect.unwrap(function)
        if id(function) in self.seen:
            return
        self.seen.add(id(function))
        if not isinstance(function, types.FunctionType) or not self.is_project(function.__module__):
            self.package(getattr(function, "__module__", None) or "builtins")
            return
        name = f"{function.__module__}:{function.__qualname__}"
        tree = self.source(function, name)
        self.found.code[name] = _normalised(tree)
        closure = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
        for free, cell in closure.items():
            try:
                self.value(cell.cell_contents, f"{name}.<closure>.{free}")
            except ValueError:  # an empty cell: the name is not bound yet
                continue
        for index, default in enumerate(function.__defaults__ or ()):
            self.value(default, f"{name}.<default {index}>")
        for key, default in (function.__kwdefaults__ or {}).items():
            self.value(default, f"{name}.<default {key}>")
        self.names(tree, function.__globals__, skip=set(closure))

    def cls(self, cls: type) -> None:
        if id(cls) in self.seen:
            return
        self.seen.add(id(cls))
        if not self.is_project(cls.__module__):
            self.package(cls.__module__)
            return
        name = f"{cls.__module__}:{cls.__qualname__}"
        module = sys.modules[cls.__module__]
        tree = self.source(cls, name)
        self.found.code[name] = _normalised(tree)
        for base in cls.__bases__:
            self.cls(base)
        self.names(tree, vars(module), skip=set())

    def source(self, thing: Any, name: str) -> ast.AST:
        try:
            text = textwrap.dedent(inspect.getsource(thing))
        except (OSError, TypeError) as error:
            raise self.unstable(name, "its source cannot be read") from error
        try:
            return ast.parse(text)
        except SyntaxError:
            # A lambda inside an expression: the text around it is not a program. Take the whole statement's bytes.
            if isinstance(thing, types.FunctionType) and thing.__name__ == "<lambda>":
                code = thing.__code__
                constants = [constant for constant in code.co_consts if isinstance(constant, _PLAIN)]
                return ast.parse(repr((code.co_code.hex(), constants, code.co_names)))
            raise self.unstable(name, "its source cannot be parsed") from None

    def names(self, tree: ast.AST, scope: Mapping[str, Any], skip: set[str]) -> None:
        """Follow what the code reads from its module, and what it imports inside."""
        for dotted in _reads(tree):
            head, *rest = dotted
            if head in skip:
                continue
            if head in scope:
                self.dotted(scope[head], rest, ".".join(dotted), scope.get("__name__", "?"))
            elif hasattr(builtins, head):
                continue
        for module, name in _imports(tree, str(scope.get("__package__") or "")):
            self.imported(module, name)

    def dotted(self, value: Any, rest: list[str], label: str, module: str) -> None:
        """`helpers.parse.inner` read from a module: go down through project modules to what is meant."""
        while isinstance(value, types.ModuleType) and rest and self.is_project(value.__name__):
            module, value = value.__name__, getattr(value, rest[0], None)
            rest = rest[1:]
        self.value(value, f"{module}:{label}")

    def imported(self, module: str, name: str | None) -> None:
        if not self.is_project(module) and module.partition(".")[0] not in self.project:
            loaded = sys.modules.get(module)
            if loaded is None and not _is_local(module):
                self.package(module)
                return
        loaded = importlib.import_module(module)
        if not self.is_project(module):
            self.package(module)
        elif name is not None:
            if hasattr(loaded, name):
                self.dotted(getattr(loaded, name), [], name, module)
            else:
                self.imported(f"{module}.{name}", None)
        else:
            # `import helpers` inside a function: which of its names are used is not followed, so take all of it.
            self.found.code[f"{module}:*"] = _normalised(ast.parse(inspect.getsource(loaded)))

    # -- constants ----------------------------------------------------------------------------------------------

    def constant(self, value: Any, name: str) -> None:
        self.found.code[name] = self.canonical(value, name)

    def canonical(self, value: Any, name: str) -> str:
        """A text that is the same whenever the value is the same, in any process."""
        if isinstance(value, enum.Enum):
            self.cls(type(value))
            return f"{type(value).__qualname__}.{value.name}"
        if isinstance(value, _PLAIN):
            return f"{type(value).__name__}:{value!r}"
        if typing.get_origin(value) is not None:
            parts = [self.canonical(part, name) for part in typing.get_args(value)]
            return f"{typing.get_origin(value)!r}[{','.join(parts)}]"
        if _is_bare_typing(value):
            return repr(value)
        if isinstance(value, list | tuple):
            return f"{type(value).__name__}[{','.join(self.canonical(item, name) for item in value)}]"
        if isinstance(value, set | frozenset):
            return f"set[{','.join(sorted(self.canonical(item, name) for item in value))}]"
        if isinstance(value, Mapping):
            # A mapping's order can show in a prompt, so it counts.
            return f"map[{','.join(self.canonical(k, name) + '=' + self.canonical(v, name) for k, v in value.items())}]"
        if isinstance(value, re.Pattern):
            return f"re:{value.pattern!r}:{value.flags}"
        if isinstance(value, pathlib.PurePath):
            return f"path:{value}"
        if isinstance(value, BaseModel):
            self.cls(type(value))
            return f"{type(value).__qualname__}:{value.model_dump_json()}"
        if is_dataclass(value) and not isinstance(value, type):
            self.cls(type(value))
            named = (f"{f.name}={self.canonical(getattr(value, f.name), name)}" for f in fields(value))
            return f"{type(value).__qualname__}({','.join(named)})"
        if isinstance(value, type | types.FunctionType | types.BuiltinFunctionType | functools.partial | types.MethodType):
            self.value(value, name)
            return f"{getattr(value, '__module__', '')}:{getattr(value, '__qualname__', repr(type(value)))}"
        if type(value).__module__.partition(".")[0] in _ENGINE:
            return f"engine:{type(value).__qualname__}"
        raise self.unstable(name, f"a value of type {type(value).__module__}.{type(value).__qualname__} has no stable form")

    def unstable(self, name: str, why: str) -> UnstableCodeError:
        return UnstableCodeError(
            f"operator {self.operator}: cannot fingerprint {name}: {why}. "
            "Make it a plain constant, or build it inside the function that uses it."
        )


def _is_bare_typing(value: Any) -> bool:
    """`Any`, `Self`, a type variable: names of the type system with nothing behind them."""
    return type(value).__module__ == "typing" and typing.get_origin(value) is None


def _is_local(module: str) -> bool:
    """Whether a module that is not imported yet would come from outside the installed packages."""
    try:
        found = importlib.util.find_spec(module.partition(".")[0])
    except (ImportError, ValueError):
        return False
    return bool(found and found.origin and not found.origin.startswith((*_INSTALLED, sysconfig.get_paths()["stdlib"])))


def _normalised(tree: ast.AST) -> str:
    """Source without comments, docstrings and formatting."""
    return ast.unparse(ast.fix_missing_locations(_WithoutDocstrings().visit(tree)))


class _WithoutDocstrings(ast.NodeTransformer):
    def visit(self, node: ast.AST) -> Any:
        super().generic_visit(node)
        if isinstance(node, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
                node.body = node.body[1:] or [ast.Pass()]
        return node


def _reads(tree: ast.AST) -> Iterator[list[str]]:
    """Dotted names that the code reads, longest first from each place, in a stable order."""
    found = set()
    inner = set()
    for node in ast.walk(tree):
        parts: list[str] = []
        place: ast.AST = node
        while isinstance(place, ast.Attribute):
            inner.add(id(place.value))
            parts.append(place.attr)
            place = place.value
        if isinstance(place, ast.Name) and id(node) not in inner:
            found.add((place.id, *reversed(parts)))
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation:
            quoted = (part.value for part in ast.walk(node.annotation) if isinstance(part, ast.Constant))
            # A quoted annotation such as "Table[Persona]" names types, too.
            found.update((word,) for text in quoted if isinstance(text, str) for word in re.findall(r"[A-Za-z_]\w*", text))
    yield from (list(parts) for parts in sorted(found))


def _imports(tree: ast.AST, package: str) -> Iterator[tuple[str, str | None]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.util.resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module
            yield from ((str(module), alias.name) for alias in node.names)


@functools.cache
def _version(distribution: str) -> str:
    try:
        return distribution_version(distribution)
    except PackageNotFoundError:
        pass
    for name in _distributions().get(distribution, []):
        return f"{name} {distribution_version(name)}"
    return "unversioned"


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    return packages_distributions()
