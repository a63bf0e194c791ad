"""Structured answers: from a pydantic model to a JSON Schema for the server, and from a text back to an object."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

T = TypeVar("T", bound=BaseModel)

_WORDS = 300
_PROBLEMS = 5
"""An answer can have thousands of problems; the model is asked to repair the first ones."""


class UnparsableError(Exception):
    """A text is not the requested object; the message says why.

    Args:
        problem: what is wrong, for the model. Part of the repair request and so of its key in the journal: rewording it
            makes repairs that were paid for unfindable.
        text: the answer.
        shown: what is wrong, for the user, if that differs.
    """

    def __init__(self, problem: str, text: str, shown: str | None = None) -> None:
        super().__init__(f"{shown or problem}; the answer reads: {text.strip()[:_WORDS]}")
        self.problem = problem


@cache
def json_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The model's JSON Schema in the strict form that `response_format` requires: all properties required, no others."""
    schema: dict[str, Any] = _strict(model.model_json_schema())
    return schema | {"title": model.__name__}


def parse_answer(text: str, model: type[T]) -> T:
    """The object in an answer: the whole text, the content of a code fence, or the text between the outermost braces.

    Validation is strict: the text "true" is not a boolean, "3" is not a number, and numbers must be finite.

    Raises:
        UnparsableError: there is no JSON, or it does not validate.
    """
    problem = "it holds no JSON object"
    for candidate in _candidates(text):
        try:
            found = model.model_validate_json(candidate, strict=True)
            json.dumps(found.model_dump(), default=str, allow_nan=False)
        except ValidationError as error:
            problem = "; ".join(map(_described, error.errors(include_input=False, include_url=False)[:_PROBLEMS]))
        except ValueError:
            problem = "a number in it is not finite"
        else:
            return found
    raise UnparsableError(problem, text)


def in_words(messages: Sequence[dict[str, Any]], schema: dict[str, Any]) -> list[dict[str, Any]]:
    """The messages, with the schema added to the last one; for servers without `response_format`."""
    *before, last = messages
    words = IN_WORDS.format(schema=json.dumps(schema, ensure_ascii=False))
    content = last["content"]
    return [
        *before,
        {**last, "content": content + words if isinstance(content, str) else [*content, {"type": "text", "text": words}]},
    ]


def repair_prompt(messages: Sequence[dict[str, Any]], answer: str, error: UnparsableError) -> list[dict[str, Any]]:
    """The conversation so far, followed by what is wrong with the last answer."""
    return [
        *messages,
        {"role": "assistant", "content": answer},
        {"role": "user", "content": REPAIR.format(problem=error.problem)},
    ]


def _described(problem: Any) -> str:
    place = ".".join(map(str, problem["loc"]))[:_WORDS] or "the answer"
    return f"{place}: {problem['msg'][:_WORDS]}"


def _candidates(text: str) -> list[str]:
    found = [text.strip()]
    for part in text.split("```")[1::2]:
        found.append(part.removeprefix("json").strip())
    start, end = text.find("{"), text.rfind("}")
    if 0 <= start < end:
        found.append(text[start : end + 1])
    return found


def _strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    strict: dict[str, Any] = {}
    for key, value in schema.items():
        if key in ("properties", "$defs"):
            strict[key] = {name: _strict(inner) for name, inner in value.items()}
        elif key not in ("default", "title"):
            strict[key] = _strict(value)
    if "properties" in strict:
        strict |= {"additionalProperties": False, "required": list(strict["properties"])}
    return strict


# Prompts: part of requests and so of their keys in the journal. Rewording them makes answers that were paid for unfindable.
IN_WORDS = """

Answer with one JSON object and nothing else. It must follow this JSON Schema:
{schema}"""

REPAIR = """\
That is not the JSON object that was asked for: {problem}. Answer again, with the corrected JSON object and nothing else."""
