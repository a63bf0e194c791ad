"""Prompt templates: Jinja, sandboxed, compiled once, with their variables checked before anything runs.

A template gives the same text for the same variables, always: what draws at random or depends on the process is not there.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from jinja2 import StrictUndefined, TemplateSyntaxError, meta, pass_context
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import AfterValidator

MAX_REPEATED = 1_000_000
"""Characters or items that a template may make by `*`."""
MAX_POWER_BITS = 10_000
"""Size of a number that a template may make by `**`."""


@pass_context  # so that Jinja computes nothing while it compiles
def _finalize(context: Context, value: Any) -> Any:
    """What `{{ ... }}` may print: an object's address would differ each time."""
    if value is None or isinstance(value, str | int | float | list | tuple | dict | StrictUndefined):
        return value
    raise TypeError(f"a template prints a {type(value).__name__}, not text; is a call without its brackets?")


class _Environment(ImmutableSandboxedEnvironment):
    """A sandbox whose templates cannot fill the memory or compute for ever by one operator."""

    intercepted_binops = frozenset(["*", "**"])

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Multiply, or take to a power, within limits."""
        if operator == "**" and isinstance(left, int) and left.bit_length() * abs(right) > MAX_POWER_BITS:
            raise SecurityError(f"a power in a template may have {MAX_POWER_BITS:,} bits at most")
        for many, times in ((left, right), (right, left)):
            if isinstance(many, str | list | tuple) and isinstance(times, int) and len(many) * times > MAX_REPEATED:
                raise SecurityError(f"a template may make {MAX_REPEATED:,} characters by repeating at most")
        return super().call_binop(context, operator, left, right)


_ENVIRONMENT = _Environment(
    undefined=StrictUndefined, autoescape=False, keep_trailing_newline=False, finalize=_finalize, optimized=False
)
del _ENVIRONMENT.filters["random"], _ENVIRONMENT.globals["lipsum"]


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
            _compiled(template)
            parsed = _ENVIRONMENT.parse(template)
        except TemplateSyntaxError as error:
            said = "`random` would make each run different" if "'random'" in str(error.message) else error.message
            raise ValueError(f"not a valid template: {said} (line {error.lineno} of the prompt)") from error
        except RecursionError:
            raise ValueError("not a valid template: it is nested too deeply") from None
        if list(meta.find_referenced_templates(parsed)):
            raise ValueError("not a valid template: a prompt cannot include other templates")
        used = meta.find_undeclared_variables(parsed)
        may = ", ".join(variables)
        if unknown := sorted(used - set(variables)):
            raise ValueError(f"the prompt uses {', '.join(unknown)}; it may use {may}")
        if bare := next((name for name in variables if _bare(name).search(_texts(template))), None):
            raise ValueError(f"write {{{{ {bare} }}}} in place of {{{bare}}}, which is sent as it stands")
        if not used:
            raise ValueError(f"the prompt is the same for every row, because it uses none of its variables ({may})")
        return template

    return AfterValidator(check)


@cache
def _compiled(template: str) -> Any:
    return _ENVIRONMENT.from_string(template)


@cache
def _bare(name: str) -> re.Pattern[str]:
    """A variable as other tools write it: `{question}`, `${question}`."""
    return re.compile(rf"(?<![\w{{\\]){{\s*{re.escape(name)}\s*}}(?!}})")


def _texts(template: str) -> str:
    """What of a template is sent as it stands."""
    return "".join(value for _, kind, value in _ENVIRONMENT.lex(template) if kind == "data")
