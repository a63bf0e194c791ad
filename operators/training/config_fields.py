"""The fields of TRL's and PEFT's configurations, read from a file so that a check need not import these packages.

`python -m operators.training.config_fields` makes config_fields.json from the installed packages; a test compares the two.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

Config = Literal["SFTConfig", "DPOConfig", "KTOConfig", "LoraConfig"]
FILE = Path(__file__).with_suffix(".json")
_KINDS = {"bool": bool, "int": int, "float": (int, float), "str": str, "list": list, "dict": dict, "null": type(None)}

_JSON_TYPES = {
    "bool": "boolean",
    "int": "integer",
    "float": "number",
    "str": "string",
    "list": "array",
    "dict": "object",
    "null": "null",
}


class Field(NamedTuple):
    """The values that a field accepts.

    Attributes:
        kinds: some of `bool`, `int`, `float`, `str`, `list`, `dict`, `null`.
        choices: the texts that the field, or a list in it, accepts; empty if it accepts any text.
    """

    kinds: tuple[str, ...]
    choices: tuple[str, ...] = ()

    @property
    def schema(self) -> dict[str, Any]:
        """The field as JSON Schema."""
        known: dict[str, Any] = {"type": [_JSON_TYPES[kind] for kind in self.kinds]}
        if "list" in self.kinds:
            return known
        return known | ({"enum": [*self.choices, *([None] if "null" in self.kinds else [])]} if self.choices else {})

    def trouble(self, value: Any) -> str | None:
        """Why a value is not accepted; None if it is."""
        if not any(_is(value, kind) for kind in self.kinds):
            return f"accepts {' or '.join(self.kinds)} (given: {value!r})"
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, str) and self.choices and each not in self.choices:
                return f"is one of {', '.join(self.choices)} (given: {each!r})"
        return None


@cache
def fields(config: Config) -> Mapping[str, Field]:
    """The fields of a configuration."""
    known = json.loads(FILE.read_text())[config]
    return {name: Field(tuple(each["kinds"]), tuple(each.get("choices", ()))) for name, each in known.items()}


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "bool"
    return isinstance(value, _KINDS[kind])  # type: ignore[arg-type]


def installed() -> dict[str, dict[str, Any]]:
    """The fields read from the installed packages (imports them)."""
    import dataclasses
    import typing

    from peft import LoraConfig
    from trl import DPOConfig, KTOConfig, SFTConfig

    found: dict[str, dict[str, Any]] = {}
    for config in (SFTConfig, DPOConfig, KTOConfig, LoraConfig):
        hints = typing.get_type_hints(config)
        named = {field.name: field.metadata.get("choices") or () for field in dataclasses.fields(config) if field.init}
        found[config.__name__] = {name: _described(hints[name], choices) for name, choices in sorted(named.items())}
    return found


def _described(hint: Any, listed: Iterable[str]) -> dict[str, Any]:
    """The values that a field accepts, from its type and the choices in its metadata."""
    parts = list(_parts(hint))
    kinds = [kind for kind in _KINDS if any(kind == name for name, _ in parts)]
    choices = sorted({*listed, *(choice for _, given in parts for choice in given)})
    # Where a field accepts both text and an enumeration, the text must name a member.
    return {"kinds": kinds, "choices": choices} if choices else {"kinds": kinds}


def _parts(hint: Any) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(kind, choices) of each type that a hint allows."""
    import enum
    import typing

    origin = typing.get_origin(hint) or hint
    if origin is typing.Literal:
        texts = tuple(each for each in typing.get_args(hint) if isinstance(each, str))
        yield "str", texts if not any("[" in text for text in texts) else ()
    elif len(typing.get_args(hint)) > 0 and origin not in (list, dict):
        for each in typing.get_args(hint):
            yield from _parts(each)
    elif isinstance(origin, type) and issubclass(origin, enum.Enum):
        yield "str", tuple(str(each.value) for each in origin)
    elif origin in (bool, int, float, str, list, dict, type(None)):
        yield "null" if origin is type(None) else origin.__name__, ()
    else:  # a nested configuration, written as a mapping
        yield "dict", ()


if __name__ == "__main__":
    FILE.write_text(json.dumps(installed(), indent=1) + "\n")
