"""JSON values and the JSON Schema that they have to fit, such as the arguments of a tool."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from registry.counted import counted

if TYPE_CHECKING:
    from jsonschema import ValidationError
    from jsonschema.protocols import Validator

_SHOWN = 200
_LARGEST = 100_000
"""Characters of a schema's JSON text."""

_UNTESTED = ("pattern", "patternProperties", "unevaluatedProperties")
"""Keywords that search with regular expressions of the schema: the last one does it for the second."""


def schema_problem(schema: Mapping[str, Any]) -> str | None:
    """What is wrong with a JSON Schema; None if nothing is. Without `$schema`, it is of draft 2020-12."""
    try:
        text = json.dumps(schema)
    except RecursionError:
        return "it is nested too deeply"
    if len(text) > _LARGEST:
        return f"the schema has {counted(len(text), 'character')}; the limit is {_LARGEST:,}"
    return _compiled(text)[1]


def misfit(value: Any, schema: Mapping[str, Any]) -> str | None:
    """Why a JSON value does not fit a schema that has no problem; None if it fits.

    References lead to other parts of the same schema, never to other documents. What needs regular expressions (`pattern`,
    `patternProperties`) is not tested, because schemas come with data, and a hostile expression can take for ever.
    """
    from jsonschema.exceptions import best_match
    from referencing.exceptions import Unresolvable

    validator, _ = _compiled(json.dumps(schema))
    try:
        found = best_match(validator.iter_errors(value))
    except Unresolvable as why:
        return f"the schema refers to {why.ref!r:.{_SHOWN}}, which it does not have"
    except RecursionError:
        return "the schema refers to itself without end"
    except (ValueError, OverflowError) as why:  # a number that Python cannot divide
        return f"it cannot be tested: {why}"
    return f"{found.json_path}: {found.message:.{_SHOWN}}" if found else None


@lru_cache(maxsize=256)
def _compiled(text: str) -> tuple[Validator, str | None]:
    """A validator and what is wrong with its schema."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import extend, validator_for
    from referencing import Registry

    schema = json.loads(text)
    known = isinstance(schema.get("$schema", ""), str)
    draft = validator_for(schema, default=Draft202012Validator) if known else Draft202012Validator
    tested = extend(draft, {**dict.fromkeys(_UNTESTED, _passes), "additionalProperties": _additional(draft)})  # type: ignore[no-untyped-call]
    # Without a registry of its own, a validator fetches the documents that a schema refers to.
    validator = tested(schema, registry=Registry())
    try:
        draft.check_schema(schema)
    except SchemaError as why:
        return validator, f"{why.json_path}: {why.message:.{_SHOWN}}"
    except RecursionError:
        return validator, "it is nested too deeply"
    return validator, None


def _passes(*_: Any) -> Iterable[ValidationError]:
    return ()


def _additional(draft: type[Validator]) -> Any:
    """The test of `additionalProperties`, where it needs no regular expression."""
    test = draft.VALIDATORS["additionalProperties"]

    def tested(validator: Validator, value: Any, instance: Any, schema: Mapping[str, Any]) -> Iterable[ValidationError]:
        return () if "patternProperties" in schema else test(validator, value, instance, schema) or ()

    return tested
