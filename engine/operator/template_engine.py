"""The template engine: Jinja in a sandbox, with limits, without filters whose text differs each time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from jinja2 import StrictUndefined, TemplateSyntaxError, meta, pass_context
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_REPEATED = 1_000_000
"""The maximum of characters or items that `*` may produce."""
MAX_POWER_BITS = 10_000
"""The maximum of bits of a number that `**` may produce."""


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


@cache
def compiled(template: str) -> Any:
    """A template, ready to be filled."""
    return _ENVIRONMENT.from_string(template)


def require_valid(text: str, variables: Sequence[str]) -> None:
    """Check that a text is a template that uses some of these variables and no others.

    Raises:
        ValueError: it is not; says why.
    """
    try:
        compiled(text)
        parsed = _ENVIRONMENT.parse(text)
    except TemplateSyntaxError as error:
        why = "`random` would make each run different" if "'random'" in str(error.message) else error.message
        raise ValueError(f"not a valid template: {why} (line {error.lineno} of the prompt)") from error
    except RecursionError:
        raise ValueError("not a valid template: it is nested too deeply") from None
    if list(meta.find_referenced_templates(parsed)):
        raise ValueError("not a valid template: a prompt cannot include other templates")
    used = meta.find_undeclared_variables(parsed)
    may = ", ".join(variables)
    if unknown := sorted(used - set(variables)):
        raise ValueError(f"the prompt uses {', '.join(unknown)}; it may use {may}")
    if bare := next((name for name in variables if _bare(name).search(_literal_text(text))), None):
        raise ValueError(f"write {{{{ {bare} }}}} instead of {{{bare}}}, which is sent literally")
    if not used:
        raise ValueError(f"the prompt is the same for every row, because it uses none of its variables ({may})")


@cache
def _bare(name: str) -> re.Pattern[str]:
    """A variable as other tools write it: `{question}`, `${question}`."""
    return re.compile(rf"(?<![\w{{\\]){{\s*{re.escape(name)}\s*}}(?!}})")


def _literal_text(template: str) -> str:
    """The parts of a template that are sent literally."""
    return "".join(value for _, kind, value in _ENVIRONMENT.lex(template) if kind == "data")
