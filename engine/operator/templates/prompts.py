"""Prompt templates: Jinja, sandboxed, compiled once, with their variables checked before anything runs.

A template always gives the same text for the same variables: filters that draw at random or depend on the process are removed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, GetCoreSchemaHandler
from pydantic_core import core_schema


def render(template: str, **variables: Any) -> str:
    """Fill a template such as `Problem: {{ question }}`.

    Raises:
        jinja2.UndefinedError: the template uses a variable that is not given.
        jinja2.exceptions.SecurityError: it takes too many steps, or prints too much.
    """
    from engine.operator.templates.template_engine import filled

    return filled(template, variables)


@dataclass(frozen=True)
class Prompt:
    """Marks a parameter as a prompt, sent literally, for example a system message.

    Example:
        system: Annotated[str | None, Prompt()] = None
    """


@dataclass(frozen=True)
class Template(Prompt):
    """Marks a parameter as a prompt template, see `template`.

    Attributes:
        variables: the names that it may use.
        builtin: the text that is used where the parameter is not set.
    """

    variables: tuple[str, ...] = ()
    builtin: str | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def check(self, text: str | None) -> str | None:
        """The text, if it is a template with these variables (or None).

        Raises:
            ValueError: it is not; says why.
        """
        if text is None:
            return None
        from engine.operator.templates.template_engine import require_valid

        require_valid(text, self.variables)
        return text


def template(*variables: str, builtin: str | None = None) -> Template:
    """Annotation for a prompt parameter: a Jinja template that must parse and may use these variables.

    Args:
        variables: their names; a prompt must use at least one of them.
        builtin: the operator's own text, for pages and cards that show which prompt was used.

    Example:
        prompt: Annotated[str | None, template("question", "solution", builtin=PROMPT)] = None
    """
    return Template(variables, builtin)


def prompt_texts(params: BaseModel) -> dict[str, str]:
    """The prompts among parameters, by name: the text that is set, or the built-in one."""
    found: dict[str, str] = {}
    for name, field in type(params).model_fields.items():
        for mark in (each for each in field.metadata if isinstance(each, Prompt)):
            text = getattr(params, name)
            text = mark.builtin if text is None and isinstance(mark, Template) else text
            if isinstance(text, str):
                found[name] = text
    return found
