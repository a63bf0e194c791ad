"""Conversations in a pipeline file: a text, or a list of {role, content}, each a template over the row's fields."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import WithJsonSchema

from engine.operator import Prompt, Record, Reject, Wrong, did_you_mean, fill, plain, template_problem

Role = Literal["system", "user", "assistant"]

_ROLES = ("system", "user", "assistant")
_TURNS_SCHEMA = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"role": {"enum": list(_ROLES)}, "content": {"type": "string"}},
        "required": ["role", "content"],
        "additionalProperties": False,
    },
}

Turns = Annotated[Any, WithJsonSchema(_TURNS_SCHEMA)]
"""A parameter: a list of {role, content}. `turn_problems` checks it, so that each problem has its own place."""

TextOrTurns = Annotated[Any, Prompt(), WithJsonSchema({"anyOf": [{"type": "string"}, _TURNS_SCHEMA]})]
"""A parameter: a text, which is what the user says, or a list of {role, content}."""


class Turn(NamedTuple):
    """A turn of a conversation; `content` is a template."""

    role: Role
    content: str


def turns_of(given: Any) -> tuple[Turn, ...]:
    """The turns of a parameter without problems."""
    if isinstance(given, str):
        return (Turn("user", given),)
    return tuple(Turn(each["role"], each["content"]) for each in given)


def turn_problems(
    given: Any, record: type[Record], at: str, *, last: Role = "user", without: Sequence[str] = ()
) -> Iterator[Wrong]:
    """What is wrong with a conversation over rows of a type.

    Args:
        given: the parameter.
        record: the type of the rows.
        at: the parameter's name.
        last: who has the last turn.
        without: fields that it may not use.
    """
    if isinstance(given, str) and last == "user":
        if problem := template_problem(given, record, without=without):
            yield Wrong(f"{at}: {problem}", (at,))
        return
    if not isinstance(given, list) or not given:
        yield Wrong(f"{at}: expected {'a text or ' if last == 'user' else ''}a list of {{role: ..., content: ...}}", (at,))
        return
    found = list(_shape_problems(given, at, last))
    for number, each in enumerate(given if not found else ()):
        if problem := template_problem(each["content"], record, needs_field=False, without=without):
            found.append(Wrong(f"{at}: {problem}", (at, number, "content")))
    if not found and all(template_problem(each["content"], record, without=without) for each in given):
        fields = ", ".join(record.model_fields)
        found.append(Wrong(f"{at}: it is the same for every row, because it uses no field of the row ({fields})", (at,)))
    yield from found


def _shape_problems(given: Sequence[Any], at: str, last: Role) -> Iterator[Wrong]:
    for number, each in enumerate(given):
        if not isinstance(each, dict) or each.keys() != {"role", "content"}:
            yield Wrong(f"{at}: a turn is {{role: ..., content: ...}}", (at, number))
        elif each["role"] not in _ROLES:
            hint = did_you_mean(str(each["role"]), _ROLES)
            yield Wrong(f"{at}: there is no role {each['role']!r}; {hint}", (at, number, "role"))
        elif not isinstance(each["content"], str) or not each["content"].strip():
            yield Wrong(f"{at}: a content is a text", (at, number, "content"))
        elif each["role"] == "system" and number:
            yield Wrong(f"{at}: the system speaks first, or not at all", (at, number, "role"))
        elif number == len(given) - 1 and each["role"] != last:
            yield Wrong(f"{at}: the last turn is the {last}'s, and this one is the {each['role']}'s", (at, number, "role"))


def conversation(
    turns: Sequence[Turn], row: Record, system: str | None = None, *, last_may_be_empty: bool = False
) -> list[dict[str, str]]:
    """The messages for a row. A system message that is empty for the row is left out.

    Raises:
        Reject: another message is empty, or a template fails.
    """
    fields = plain(row)
    spoken = turns if system is None else (Turn("system", system), *turns)
    messages = [{"role": turn.role, "content": fill(turn.content, fields).strip()} for turn in spoken]
    to_say = messages[:-1] if last_may_be_empty else messages
    if empty := [message["role"] for message in to_say if not message["content"] and message["role"] != "system"]:
        raise Reject(f"the {empty[0]}'s message is empty for this row")
    return [message for message in messages if message["content"] or message["role"] != "system"]
