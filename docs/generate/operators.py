"""The operator reference, from the catalogue: signatures, parameters and docstrings, and the record types."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from docs.generate.markdown import code, default_of, docstring, generated, table
from engine.cli.operator_view import type_of
from engine.operator.types import NAMED
from engine.packages.catalogue import catalogue
from registry import Record

_INTRODUCTION = """
The operators that come with the package. `engine ops` lists them together with those of other installed packages;
`engine ops NAME` shows one of these pages in the terminal.

An operator *on rows* is called for each row of its first input, one *on batches* for Arrow tables, one *on whole inputs* once.
"""


def page() -> str:
    """The page as Markdown."""
    known = catalogue()
    groups: dict[str, list[Any]] = {}
    for operator in known.operators.values():
        module = operator.function.__module__
        if module.split(".")[0] == "operators":
            groups.setdefault(module.split(".")[1], []).append(operator)
    parts = [generated("Operators and record types", "the docstrings in operators/"), _INTRODUCTION]
    for group in sorted(groups):
        parts.append(f"## {group}\n")
        parts += [_operator(each) for each in sorted(groups[group], key=lambda each: each.name)]
    parts.append("## Generators\n\n" + _generators(known.generators))
    records = [each for each in known.records.values() if each.__module__.split(".")[0] in ("operators", "registry")]
    parts.append("## Record types\n")
    parts += [_record(each) for each in sorted(records, key=lambda each: each.type_name())]
    return "\n".join(parts)


def _operator(operator: Any) -> str:
    shape = {"row": "on rows", "batch": "on batches", "whole": "on whole inputs"}[operator.shape]
    rows = [["in", code(name), _input(port)] for name, port in operator.inputs.items()]
    for name, record in operator.outputs.items():
        like = operator.like.get(name)
        kind = "a type that follows from the parameters" if record is Record else _link(record)
        named = "named by the parameters" if name == NAMED else code(name)
        rows.append(["out", named, f"rows as they came in as {code(like)}" if like else kind])
    for role in operator.roles:
        rows.append(["encoder" if role in operator.encoders else "model", code(role), ""])
    prose = _prose(docstring(operator.function).text)
    return f"### {operator.name}\n\n*{shape}*\n\n{prose}\n\n{table(['', 'name', 'type'], rows)}{_parameters(operator)}"


def _input(port: Any) -> str:
    kind = "any type" if port.open else _link(port.record)
    kind = f"any number of inputs, which the pipeline names, of {kind}" if port.named else kind
    return kind + (", may be left out" if port.optional else "")


def _parameters(operator: Any) -> str:
    meanings = docstring(operator.function).arguments
    tables = [_fields("parameter (`with:`)", operator.params, meanings)]
    for name, field in operator.params.model_fields.items():
        for nested in _models(field.annotation):
            tables.append(_fields(f"under `{name}:`", nested, {}))
    return "".join(f"\n{each}" for each in tables if each)


def _fields(head: str, model: type[BaseModel], meanings: Mapping[str, str]) -> str:
    """The table of a model's fields. The schema of a trainer also has the fields of its library, which the docstring names."""
    known = dict(meanings)
    for each in reversed(model.__mro__):
        if vars(each).get("__doc__") and each.__module__.split(".")[0] == "operators":
            known |= docstring(each).arguments
    schema = model.model_json_schema()
    required = set(schema.get("required", ()))
    rows = []
    for name in model.model_fields:
        field = schema["properties"][name]
        rows.append([code(name), type_of(field), default_of(field, name in required), known.get(name, "")])
    return table([head, "type", "default", "meaning"], rows) if rows else ""


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The pydantic models in an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for each in typing.get_args(annotation):
        yield from _models(each)


def _generators(generators: Any) -> str:
    rows = [[code(f"{name}/TASK"), _first_line(each.function)] for name, each in sorted(generators.items())]
    return table(["`generator:`", "what it makes"], rows)


def _first_line(function: Any) -> str:
    return (docstring(function).text or "").partition("\n")[0]


def _record(record: type[Record]) -> str:
    schema = record.model_json_schema()
    required = set(schema.get("required", ()))
    rows = [[code(name), type_of(field), default_of(field, name in required)] for name, field in schema["properties"].items()]
    own = docstring(record).text
    return f"### {record.type_name()}\n\n{_prose(own)}\n\n{table(['field', 'type', 'default'], rows)}"


def _link(record: type[Record]) -> str:
    if record is Record:
        return "any type"
    return f"[{record.type_name()}](#{record.type_name().lower()})"


def _prose(text: str) -> str:
    """A docstring as Markdown: indented examples become code blocks."""
    return re.sub(r"(?:^    .*\n?(?:\n(?=    ))?)+", _fenced, text, flags=re.MULTILINE)


def _fenced(match: re.Match[str]) -> str:
    body = re.sub(r"^    ", "", match.group(0), flags=re.MULTILINE).strip("\n")
    return f"```text\n{body}\n```\n"
