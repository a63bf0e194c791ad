"""Tools in a pipeline file or a row, and the calls that a model makes of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from pydantic import WithJsonSchema

from engine.operator import (
    Completion,
    DescribedField,
    DescribedType,
    Record,
    Reject,
    Wrong,
    as_tools,
    described,
    plain,
    tool_name,
)
from operators.generic.new_fields import type_of_field, unknown_fields
from operators.json_schema import misfit, schema_problem
from operators.records import ToolCall

ToolsParameter = Annotated[
    Any, WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}, {"type": "null"}]})
]
"""A parameter: a list of tools, or the name of a field that has them. `tool_problems` checks it."""

TOOL_CALLS = "tool_calls"
"""The field with the calls of an answer."""

TOOLS_BYTES = 1000
"""More than servers add to a prompt with tools, in bytes."""

CALLS_FIELD = DescribedField(
    name=TOOL_CALLS,
    type=DescribedType(kind="list", item=DescribedType(kind="struct", fields=described(ToolCall).fields), optional=True),
)


def are_calls(about: DescribedType) -> bool:
    """Whether a field of this type can have calls of tools."""
    if about.kind != "list" or about.item is None or about.item.kind != "struct":
        return False
    return any(field.name == "function" and field.type.kind == "struct" for field in about.item.fields)


def tool_problems(given: Any, record: type[Record]) -> Iterator[Wrong]:
    """What is wrong with the parameter `tools`: definitions, or the name of a field that has them as JSON text."""
    if isinstance(given, str):
        yield from unknown_fields(record, {("tools",): given})
        kind = type_of_field(record, given)
        if kind is not None and kind.kind != "str":
            yield Wrong(f"tools: field {given!r} is {kind}; expected str, with a list of tools as JSON", ("tools",))
        return
    try:
        if not _checked(given):
            yield Wrong("tools: the list is empty", ("tools",))
    except ValueError as why:
        yield Wrong(f"tools: {why}", ("tools",))


def tools_of(given: Any, row: Record) -> Sequence[dict[str, Any]]:
    """The tools for a row.

    Raises:
        Reject: its field has none.
    """
    if given is None:
        return ()
    if not isinstance(given, str):
        return as_tools(given)
    text = plain(row)[given]
    if not text:
        raise Reject(f"{given}: the row has no tools")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as why:
        raise Reject(f"tools is not JSON: {why}") from why
    try:
        return _checked([found] if isinstance(found, dict) else found)
    except ValueError as why:
        raise Reject(f"{given}: {why}") from why


def calls_in(answer: Completion, tools: Sequence[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """The calls of an answer as a field has them; None if there are none.

    Raises:
        Reject: one of them calls no tool that was offered, or its arguments do not fit the tool's schema.
    """
    offered = {tool_name(each): each["function"] for each in tools}
    for call in answer.tool_calls:
        if call.name not in offered:
            raise Reject(f"the model called {call.name!r}; the tools are {', '.join(offered)}")
        arguments = _arguments(call.arguments)
        if arguments is None:
            raise Reject(f"the arguments of the call of {call.name} are not a JSON object: {call.arguments:.200}")
        if why := misfit(arguments, offered[call.name].get("parameters", {})):
            raise Reject(f"the arguments of the call of {call.name} do not fit its parameters: {why}")
    calls = [
        {"function": {"name": call.name, "arguments": call.arguments}, "id": call.id or None, "type": "function"}
        for call in answer.tool_calls
    ]
    return calls or None


def _checked(given: Any) -> Sequence[dict[str, Any]]:
    """Tools with the schemas of their parameters tested.

    Raises:
        ValueError: they are not tools; says which one, and why.
    """
    tools = as_tools(given)
    for each in tools:
        if why := schema_problem(each["function"].get("parameters", {})):
            raise ValueError(f"{tool_name(each)}: parameters is not a JSON Schema: {why}")
    return tools


def _arguments(text: str) -> dict[str, Any] | None:
    """Arguments as data; None if they are not a JSON object."""
    try:
        found = json.loads(text or "{}", parse_constant=_no_number)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _no_number(text: str) -> None:
    """NaN and the infinities, which Python reads and JSON does not have."""
    raise ValueError(f"{text} is not JSON")
