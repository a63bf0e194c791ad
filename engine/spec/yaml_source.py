"""YAML as plain data, with the position of every key and value in the file.

Loading is safe: only JSON's values are allowed (strings, finite numbers, booleans, null, lists, mappings), plus merged
mappings (`<<: *name`). Duplicate keys are problems. The size and depth of the file and of expanded aliases are limited.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from engine.errors import PipelineError, Position, Problem

MAX_BYTES = 1 << 20
MAX_NODES = 20_000
MAX_DEPTH = 50
_MERGE = "tag:yaml.org,2002:merge"
_PLAIN_TAGS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")

Loc = tuple[str | int, ...]


@dataclass
class YamlSource:
    """A loaded file: `data`, the positions of values and keys by path, and the problems found so far.

    `broken` contains the names of models, datasets and steps that are too wrong to use. `variants` has the name in the file
    of each model, dataset and step that is a variant of one in it.
    """

    file: str
    data: Any = None
    values: dict[Loc, Position] = field(default_factory=dict)
    keys: dict[Loc, Position] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    variants: dict[str, str] = field(default_factory=dict)

    def position(self, loc: Loc, *, key: bool = False) -> Position:
        """The position of the value (or the key) at `loc`, or of the nearest enclosing value if it is not in the file."""
        if len(loc) > 1 and loc[1] in self.variants:
            loc = (loc[0], self.variants[str(loc[1])], *loc[2:])
        while loc:
            places = self.keys if key and loc in self.keys else self.values
            if loc in places:
                return places[loc]
            loc = loc[:-1]
        return self.values.get((), Position(self.file, 1, 1))

    def problem(self, message: str, loc: Loc, hint: str = "", *, key: bool = False) -> None:
        """Add a problem of the value (or the key) at `loc`."""
        self.problems.append(Problem(message, self.position(loc, key=key), hint))


def load(path: Path, shown_as: str | None = None) -> YamlSource:
    """Read a YAML mapping. Raises PipelineError if it cannot be read at all; collects lesser problems."""
    name = shown_as or str(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise PipelineError([Problem(f"cannot read {name}: {error.strerror}")]) from error
    if len(raw) > MAX_BYTES:
        place = Position(name, 1, 1)
        raise PipelineError([Problem(f"the file has {len(raw):,} bytes; the limit is {MAX_BYTES:,}", place)])
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        place = Position(name, line, error.start - raw.rfind(b"\n", 0, error.start))
        raise PipelineError([Problem("the file is not UTF-8", place, "save the file as UTF-8")]) from error
    source = parse(text, name)
    if not isinstance(source.data, dict):
        raise PipelineError([Problem("a pipeline must be a mapping with the keys name, steps, ...", Position(name, 1, 1))])
    return source


def parse(text: str, name: str) -> YamlSource:
    """YAML text as data; `name` is the file name in positions.

    Raises:
        PipelineError: it is not YAML, or is too large or too deep; with the position.
    """
    if bad := _NOT_YAML.search(text):
        line = text.count("\n", 0, bad.start()) + 1
        place = Position(name, line, bad.start() - text.rfind("\n", 0, bad.start()))
        code = ord(bad[0])
        escape = f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
        hint = f'remove it, or write it as an escape in double quotes: "{escape}"'
        raise PipelineError([Problem(f"YAML does not allow the character U+{code:04X}", place, hint)])
    source = YamlSource(name)
    kind: Any = yaml.SafeLoader if _FastLoader is None or _SURROGATE.search(text) else _FastLoader
    loader = yaml.SafeLoader("")  # only its constructors of scalars are used
    try:
        _bounded(text, kind, name)
        root = yaml.compose(text, Loader=kind)
        if root is None:
            raise PipelineError([Problem("the file is empty", Position(name, 1, 1))])
        source.data = _Builder(source, loader).build(root, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = Position(name, mark.line + 1, mark.column + 1) if mark else None
        if error.problem == "but found another document":
            hint = "remove the line `---` and everything after it, or move that to another file"
            raise PipelineError([Problem("the file contains several YAML documents", where, hint)]) from error
        flow = re.search("expected ',' or '[}\\]]'", error.problem or "")
        hint = "inside { } or [ ], a value that contains [, ], {, }, ? or a comma needs quotes" if flow else ""
        raise PipelineError([Problem(f"not valid YAML: {error.problem or error.context}", where, hint)]) from error
    except yaml.YAMLError as error:
        raise PipelineError([Problem(f"{name}: not valid YAML: {error}")]) from error
    finally:
        loader.dispose()
    return source


_NOT_YAML = yaml.reader.Reader.NON_PRINTABLE

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
"""An escaped surrogate. libyaml rejects even pairs, so such files go through the Python parser."""

_FastLoader: Any = getattr(yaml, "CSafeLoader", None)


def _bounded(text: str, kind: Any, name: str) -> None:
    """Reject what is too large or too deep before nodes are composed, because composing is recursive."""
    depth = 0
    for nodes, event in enumerate(yaml.parse(text, Loader=kind)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH or nodes > 2 * MAX_NODES:  # a collection has two events
            mark = event.start_mark
            where = Position(name, mark.line + 1, mark.column + 1) if mark else None
            raise PipelineError([Problem(_TOO_LARGE, where)])


_KINDS = {"date": "a date", "datetime": "a time", "bytes": "binary data"}
_TOO_LONG = "the number does not fit into 64 bits"
_TOO_LARGE = (
    f"the YAML is too large or too deep: more than {MAX_NODES:,} values or {MAX_DEPTH} levels "
    "(an alias counts wherever it is used)"
)


class _Builder:
    def __init__(self, source: YamlSource, loader: yaml.SafeLoader) -> None:
        self.source = source
        self.loader = loader
        self.nodes = 0
        self.enclosing: set[int] = set()

    def build(self, node: yaml.Node, loc: Loc) -> Any:
        here = self.at(node)
        self.count(node, len(loc))
        self.source.values[loc] = here
        if not isinstance(node, yaml.CollectionNode):
            return self.scalar(node)
        if node.tag not in _PLAIN_TAGS:
            raise yaml.constructor.ConstructorError(None, None, f"the tag {node.tag} is not allowed", node.start_mark)
        with self.inside(node):
            if isinstance(node, yaml.MappingNode):
                return dict(self.pairs(node, loc))
            return [self.build(item, (*loc, i)) for i, item in enumerate(node.value)]

    @contextmanager
    def inside(self, node: yaml.Node) -> Iterator[None]:
        """While the content of a collection is built. Raises PipelineError for a collection inside itself."""
        if id(node) in self.enclosing:
            hint = "replace the alias (*name) with the value that it should have"
            raise PipelineError([Problem("this value contains an alias of itself", self.at(node), hint)])
        self.enclosing.add(id(node))
        try:
            yield
        finally:
            self.enclosing.discard(id(node))

    def scalar(self, node: yaml.Node) -> Any:
        """A scalar. A value that JSON does not have is a problem, and becomes None so that the rest can be checked."""
        try:
            value = self.loader.construct_object(node)
        except (ValueError, IndexError, TypeError, OverflowError) as error:  # for example `!!int ""`
            long = isinstance(error, ValueError) and "digits" in str(error)
            why = _TOO_LONG if long else str(error)
            raise yaml.constructor.ConstructorError(None, None, why, node.start_mark) from error
        if isinstance(value, str):
            return self.text(value, node)
        if isinstance(value, float) and not math.isfinite(value):
            return self.refused(f"{node.value} is not a finite number", node, "give a finite number, or null")
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            return self.refused(_TOO_LONG, node)
        if value is not None and not isinstance(value, bool | int | float):
            what = f"{_KINDS.get(type(value).__name__, 'a special value')}, which JSON does not have"
            return self.refused(f"YAML reads {node.value:.40} as {what}", node, "put it in quotes to make it a string")
        return value

    def text(self, value: str, node: yaml.Node) -> str:
        """The text with escaped surrogate pairs replaced by their characters."""
        if value.isascii():
            return value
        raw = value.encode("utf-16", "surrogatepass")
        try:
            return raw.decode("utf-16")
        except UnicodeDecodeError:
            self.refused(
                "an unpaired surrogate (\\ud800 to \\udfff) is not a character", node, "write the whole pair or remove it"
            )
            return raw.decode("utf-16", "replace")

    def refused(self, message: str, node: yaml.Node, hint: str = "") -> None:
        self.source.problems.append(Problem(message, self.at(node), hint))

    def pairs(self, node: yaml.MappingNode, loc: Loc) -> Iterator[tuple[str, Any]]:
        seen: dict[str, Position] = {}
        merged: list[tuple[yaml.Node, yaml.Node]] = []
        own = []
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                merged += self.merged(value_node)
            else:
                own.append((key_node, value_node))
        for place, (key_node, value_node) in enumerate([*own, *merged]):
            here = self.at(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                self.source.problems.append(Problem("a key must be a string", here))
                continue
            key = self.text(key_node.value, key_node)
            if key in seen and place >= len(own):
                continue  # the mapping's own keys win, then those of the first merged mapping
            if key in seen:
                message = f"duplicate key {key!r}; the first one is on line {seen[key].line}"
                self.source.problems.append(Problem(message, here, "remove one of the two"))
                continue
            seen[key] = here
            self.source.keys[(*loc, key)] = here
            yield key, self.build(value_node, (*loc, key))

    def merged(self, node: yaml.Node, depth: int = 0) -> list[tuple[yaml.Node, yaml.Node]]:
        """The pairs that `<<: *name` or `<<: [*one, *two]` merges in, in order of precedence."""
        self.count(node, depth)
        if isinstance(node, yaml.SequenceNode):
            return [pair for each in node.value for pair in self.merged(each, depth + 1)]
        if not isinstance(node, yaml.MappingNode):
            raise yaml.constructor.ConstructorError(None, None, "<< needs a mapping or a list of mappings", node.start_mark)
        own, more = [], []
        with self.inside(node):
            for key_node, value_node in node.value:
                self.count(key_node, depth)
                if key_node.tag == _MERGE:
                    more += self.merged(value_node, depth + 1)
                else:
                    own.append((key_node, value_node))
        return own + more

    def count(self, node: yaml.Node, depth: int) -> None:
        """Count a node, also when an alias repeats it. Raises PipelineError at the limit."""
        self.nodes += 1
        if self.nodes > MAX_NODES or depth > MAX_DEPTH:
            raise PipelineError([Problem(_TOO_LARGE, self.at(node))])

    def at(self, node: yaml.Node) -> Position:
        return Position(self.source.file, node.start_mark.line + 1, node.start_mark.column + 1)
