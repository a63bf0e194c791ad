"""Prompt templates: Jinja, sandboxed, compiled once, with their variables checked before anything runs.

A template always gives the same text for the same variables: filters that draw at random or depend on the process are removed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import StrictUndefined, TemplateSyntaxError, meta, pass_context
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import BaseModel, GetCoreSchemaHandler
from pydantic_core import core_schema

MAX_REPEATED = 1_000_000
"""The most characters or items that `*` may produce."""
MAX_POWER_BITS = 10_000
"""The most bits of a number that `**` may produce."""


@pass_context  # so that Jinja computes nothing while it compiles
def _finalize(context: Context, value: Any) -> Any:
    """Let `{{ ... }}` print plain values only: an object's address would differ each time."""
    if value is None or isinstance(value, str | int | float | list | tuple | dict | StrictUndefined):
        return value
    raise TypeError(f"a template prints a {type(value).__name__}, not text; are the parentheses of a call missing?")


class _Environment(ImmutableSandboxedEnvironment):
    """A sandbox in which one operator cannot fill the memory or compute forever."""

    intercepted_binops = frozenset(["*", "**"])

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Multiply or exponentiate within limits."""
        if operator == "**" and isinstance(left, int) and left.bit_length() * abs(right) > MAX_POWER_BITS:
            raise SecurityError(f"a power in a template may have at most {MAX_POWER_BITS:,} bits")
        for many, times in ((left, right), (right, left)):
            if isinstance(many, str | list | tuple) and isinstance(times, int) and len(many) * times > MAX_REPEATED:
                raise SecurityError(f"repetition in a template may produce at most {MAX_REPEATED:,} characters")
        return super().call_binop(context, operator, left, right)


_ENVIRONMENT = _Environment(
    undefined=StrictUndefined, autoescape=False, keep_trailing_newline=False, finalize=_finalize, optimized=False
)
del _ENVIRONMENT.filters["random"], _ENVIRONMENT.globals["lipsum"]


def render(template: str, **variables: Any) -> str:
    """Fill a template such as `Problem: {{ question }}`.

    Raises:
        jinja2.UndefinedError: the template uses a variable that is not given.
    """
    return str(_compiled(template).render(**variables))


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
        try:
            _compiled(text)
            parsed = _ENVIRONMENT.parse(text)
        except TemplateSyntaxError as error:
            why = "`random` would make each run different" if "'random'" in str(error.message) else error.message
            raise ValueError(f"not a valid template: {why} (line {error.lineno} of the prompt)") from error
        except RecursionError:
            raise ValueError("not a valid template: it is nested too deeply") from None
        if list(meta.find_referenced_templates(parsed)):
            raise ValueError("not a valid template: a prompt cannot include other templates")
        used = meta.find_undeclared_variables(parsed)
        may = ", ".join(self.variables)
        if unknown := sorted(used - set(self.variables)):
            raise ValueError(f"the prompt uses {', '.join(unknown)}; it may use {may}")
        if bare := next((name for name in self.variables if _bare(name).search(_literal_text(text))), None):
            raise ValueError(f"write {{{{ {bare} }}}} instead of {{{bare}}}, which is sent literally")
        if not used:
            raise ValueError(f"the prompt is the same for every row, because it uses none of its variables ({may})")
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


@cache
def _compiled(template: str) -> Any:
    return _ENVIRONMENT.from_string(template)


@cache
def _bare(name: str) -> re.Pattern[str]:
    """A variable as other tools write it: `{question}`, `${question}`."""
    return re.compile(rf"(?<![\w{{\\]){{\s*{re.escape(name)}\s*}}(?!}})")


def _literal_text(template: str) -> str:
    """The parts of a template that are sent literally."""
    return "".join(value for _, kind, value in _ENVIRONMENT.lex(template) if kind == "data")
