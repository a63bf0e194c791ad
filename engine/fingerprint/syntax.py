"""Source code as syntax trees: finds functions and classes, the names they read, and their text without comments.

All of it follows from the text of one source file (and the version of Python), so `parts` can remember it.
"""

from __future__ import annotations

import ast
import copy
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from types import CodeType
from typing import NamedTuple

_Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


@lru_cache(maxsize=256)
def parsed(source: str) -> ast.Module:
    """A module's tree without bare strings: the docstrings of the module, of classes, functions and attributes."""
    tree = ast.parse(source)
    for node in _statements(tree):
        for part in ("body", "orelse", "finalbody"):
            lines = getattr(node, part, None)
            if isinstance(lines, list):
                kept = [line for line in lines if not _is_text(line)]
                if len(kept) < len(lines):
                    setattr(node, part, kept or ([ast.copy_location(ast.Pass(), lines[0])] if part == "body" else []))
    return tree


def code_node(source: str, code: CodeType) -> ast.AST | None:
    """The function or lambda of a module's source that a code object was compiled from; None if it is not there."""
    nodes: Iterable[_Function] = _lambdas(source) if code.co_name == "<lambda>" else _functions(source)
    candidates = [node for node in nodes if _first_line(node) == code.co_firstlineno and _name(node) == code.co_name]
    if len(candidates) <= 1:
        return candidates[0] if candidates else None
    # Several lambdas on one line are distinguished by the position of their bodies.
    places = [(line, column) for line, _, column, _ in code.co_positions() if line is not None and column is not None]
    for node in candidates:
        body = node.body if isinstance(node, ast.Lambda) else node
        start, end = (body.lineno, body.col_offset), (body.end_lineno or 0, body.end_col_offset or 0)
        inside = [start <= place <= end for place in places if place > (code.co_firstlineno, 0)]
        if inside and all(inside):
            return node
    return None


def class_node(source: str, name: str) -> ast.ClassDef | None:
    """The first class of this name in a module's source."""
    found = (node for node in _statements(parsed(source)) if isinstance(node, ast.ClassDef) and node.name == name)
    return next(found, None)


def without_methods(node: ast.ClassDef, names: frozenset[str]) -> ast.ClassDef:
    """A class without its methods of these names."""
    kept = [each for each in node.body if not (isinstance(each, ast.FunctionDef) and each.name in names)]
    made = copy.copy(node)
    made.body = kept or [ast.Pass()]
    return made


class Decorator(NamedTuple):
    """A decorator of a function: its source, and the dotted name that it calls or is; empty for other expressions."""

    text: str
    name: Sequence[str]


class Import(NamedTuple):
    """An imported name: the name it is bound to, the module, the name in the module (None: the module itself).

    The module of a relative import starts with dots.
    `optional`: the code continues without it, because it catches ImportError.
    """

    bound: str
    module: str
    name: str | None
    optional: bool


class Part(NamedTuple):
    """What the source of a function, a class or a module says.

    Attributes:
        text: the source without comments and formatting, and without the decorators of a function.
        decorators: the decorators of a function.
        names: dotted names that it reads, in a stable order: ("helpers", "parse") for `helpers.parse`.
        attributes: attributes of anything that it reads.
        imports: its import statements.
        binds: names that a class or a module defines.
    """

    text: str
    decorators: Sequence[Decorator]
    names: Sequence[Sequence[str]]
    attributes: Sequence[str]
    imports: Sequence[Import]
    binds: Sequence[str]

    def source(self, dropped: Callable[[Sequence[str]], bool]) -> str:
        """The text with its decorators, except those whose dotted name is `dropped`."""
        return "".join(f"@{text}\n" for text, name in self.decorators if not dropped(name)) + self.text


def part(node: ast.AST) -> Part:
    """What a part of a `parsed` module says."""
    names, attributes = _reads(node)
    decorators, bare = [], node
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        decorators = [Decorator(ast.unparse(each), _dotted(each)) for each in node.decorator_list]
        bare = copy.copy(node)
        bare.decorator_list = []
    return Part(ast.unparse(bare), decorators, names, attributes, list(_imports(node)), _binds(node))


def _dotted(decorator: ast.expr) -> tuple[str, ...]:
    """`operator` of `@operator(...)`, `solve.finish` of `@solve.finish`; empty for longer names and other expressions."""
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    if isinstance(called, ast.Name):
        return (called.id,)
    if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name):
        return (called.value.id, called.attr)
    return ()


def _binds(node: ast.AST) -> list[str]:
    """Names that a class body defines, or binds by assignment, such as `solve = cached(helper)`."""
    if not isinstance(node, ast.ClassDef):
        return []
    defined = {child.name for child in node.body if hasattr(child, "name")}
    return sorted(
        defined | {name.id for name in _nodes(node) if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)}
    )


def _reads(tree: ast.AST) -> tuple[list[tuple[str, ...]], list[str]]:
    """The names and attributes that code reads."""
    found: set[tuple[str, ...]] = set()
    attributes: set[str] = set()
    inner: set[int] = set()
    for node in _nodes(tree):
        parts: list[str] = []
        place: ast.AST = node
        while isinstance(place, ast.Attribute):
            inner.add(id(place.value))
            parts.append(place.attr)
            attributes.add(place.attr)
            place = place.value
        if isinstance(place, ast.Name) and id(node) not in inner:
            found.add((place.id, *reversed(parts)))
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation:
            quoted = (part.value for part in ast.walk(node.annotation) if isinstance(part, ast.Constant))
            # A quoted annotation such as "Table[Persona]" also names types.
            found.update((word,) for text in quoted if isinstance(text, str) for word in re.findall(r"[A-Za-z_]\w*", text))
    return sorted(found), sorted(attributes)


def _imports(tree: ast.AST) -> Iterator[Import]:
    """The import statements in code."""
    caught = {id(inner) for node in _statements(tree) if _catches_import_error(node) for inner in _statements(node)}
    for node in _statements(tree):
        optional = id(node) in caught
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname:
                    yield Import(alias.asname, alias.name, None, optional)
                else:
                    top = alias.name.partition(".")[0]
                    yield Import(top, top, None, optional)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            for alias in node.names:
                name = None if alias.name == "*" else alias.name
                yield Import(alias.asname or alias.name, module, name, optional)


@lru_cache(maxsize=256)
def _functions(source: str) -> tuple[_Function, ...]:
    return tuple(node for node in _statements(parsed(source)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@lru_cache(maxsize=256)
def _lambdas(source: str) -> tuple[_Function, ...]:
    return tuple(node for node in _nodes(parsed(source)) if isinstance(node, ast.Lambda))


def _nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes of a tree, as ast.walk yields them but in half the time: `engine check` waits for this."""
    waiting = deque([tree])
    while waiting:
        node = waiting.popleft()
        yield node
        fields = node.__dict__
        for name in node._fields:
            value = fields.get(name)
            if isinstance(value, ast.AST):
                waiting.append(value)
            elif isinstance(value, list):
                waiting.extend([item for item in value if isinstance(item, ast.AST)])


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    """A tree's statements (and nodes that contain some, such as `except`), in the order of ast.walk."""
    waiting = deque([tree])
    while waiting:
        node = waiting.popleft()
        yield node
        for part in ("body", "handlers", "orelse", "finalbody", "cases"):
            inner = getattr(node, part, None)
            if isinstance(inner, list):
                waiting.extend(inner)


def _catches_import_error(node: ast.AST) -> bool:
    """Whether a statement is a `try` that continues when a package is not installed."""
    if not isinstance(node, ast.Try):
        return False
    caught = [
        part.id for handler in node.handlers if handler.type for part in ast.walk(handler.type) if isinstance(part, ast.Name)
    ]
    bare = any(handler.type is None for handler in node.handlers)
    return bare or bool({"ImportError", "ModuleNotFoundError", "Exception"} & set(caught))


def _first_line(node: _Function) -> int:
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(each.lineno for each in decorators)])


def _name(node: _Function) -> str:
    return "<lambda>" if isinstance(node, ast.Lambda) else node.name


def _is_text(line: ast.AST) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) and isinstance(line.value.value, str)
