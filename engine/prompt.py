"""Prompt templates: Jinja, sandboxed, compiled once, with their variables checked before anything runs."""

from __future__ import annotations

from functools import cache
from typing import Any

from jinja2 import StrictUndefined, TemplateSyntaxError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import AfterValidator

_ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=False)


def render(template: str, **variables: Any) -> str:
    """Fill a template such as `Problem: {{ question }}`; an unknown variable is an error."""
    return str(_compiled(template).render(**variables))


def prompt_with(*variables: str) -> AfterValidator:
    """For an operator's prompt parameter: a template that may use these variables and must parse.

    Example:
        prompt: Annotated[str | None, prompt_with("question")] = None
    """

    def check(template: str | None) -> str | None:
        if template is None:
            return None
        try:
            used = meta.find_undeclared_variables(_ENVIRONMENT.parse(template))
        except TemplateSyntaxError as error:
            raise ValueError(f"not a valid template: {error.message} (line {error.lineno} of the prompt)") from error
        unknown = sorted(used - set(variables))
        if unknown:
            raise ValueError(f"the prompt uses {', '.join(unknown)}; it may use {', '.join(variables)}")
        return template

    return AfterValidator(check)


@cache
def _compiled(template: str) -> Any:
    return _ENVIRONMENT.from_string(template)
