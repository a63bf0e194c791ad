"""Tools that a model may call, in one form for all servers: `{type: function, function: {name, description, parameters}}`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from engine.errors import did_you_mean

Tools = tuple[dict[str, Any], ...]

MOST_TOOLS = 128
"""The maximum number of tools in one request that common servers accept."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SHOWN = 100
_KEYS = ("name", "description", "parameters", "input_schema", "strict", "type")


def as_tools(given: Any) -> Tools:
    """Tools in the form of chat completions. A function without the envelope, and Anthropic's `input_schema`, are taken, too.

    Raises:
        ValueError: a tool is invalid; the text says which one, and why.
    """
    if not isinstance(given, Sequence) or isinstance(given, str | bytes):
        raise ValueError(f"{given!r:.{_SHOWN}} is not a list of tools")
    if len(given) > MOST_TOOLS:
        raise ValueError(f"there are {len(given)} tools; the limit is {MOST_TOOLS}")
    made = tuple(_tool(each, number) for number, each in enumerate(given))
    names = [name_of(each) for each in made]
    if twice := next((name for place, name in enumerate(names) if name in names[:place]), None):
        raise ValueError(f"there are two tools called {twice!r}")
    return made


def name_of(tool: Mapping[str, Any]) -> str:
    """A tool's name."""
    return str(tool["function"]["name"])


def _tool(given: Any, number: int) -> dict[str, Any]:
    where = f"tool {number}"
    if not isinstance(given, Mapping):
        raise ValueError(f"{where} is {given!r:.{_SHOWN}}; expected {{name, description, parameters}}")
    if given.get("type", "function") != "function":
        raise ValueError(f"{where} has the type {given['type']!r:.{_SHOWN}}; only functions can be called")
    function = given.get("function", given)
    if not isinstance(function, Mapping) or not isinstance(name := function.get("name"), str) or not _NAME.fullmatch(name):
        raise ValueError(f"{where} has no name of letters, digits, `_` and `-`")
    _check_keys(name, function, _KEYS)
    if function is not given:
        _check_keys(name, given, ("type", "function"))
    parameters = function.get("parameters", function.get("input_schema"))
    if parameters is not None and not isinstance(parameters, Mapping):
        raise ValueError(f"{name}: parameters is not a JSON Schema, which is an object")
    description = function.get("description")
    if description is not None and not isinstance(description, str):
        raise ValueError(f"{name}: description is not a text")
    strict = function.get("strict")
    if strict is not None and not isinstance(strict, bool):
        raise ValueError(f"{name}: strict is neither true nor false")
    return {
        "type": "function",
        "function": {
            "name": name,
            **({"description": description} if description else {}),
            **({"parameters": dict(parameters)} if parameters else {}),
            **({"strict": strict} if strict is not None else {}),
        },
    }


def _check_keys(name: str, part: Mapping[str, Any], known: Sequence[str]) -> None:
    for key, value in part.items():
        if key not in known and value is not None:
            raise ValueError(f"{name}: unknown key {key!r:.{_SHOWN}}; {did_you_mean(str(key), known)}")
