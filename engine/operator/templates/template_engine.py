"""The template engine: Jinja in a sandbox, with limits, without filters whose text differs each time."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, wraps
from typing import Any

from jinja2 import StrictUndefined, TemplateSyntaxError, meta, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MAX_REPEATED = 1_000_000
"""The maximum of characters or items that `*` may produce, and of a text's width."""
MAX_POWER_BITS = 10_000
"""The maximum of bits of a number that `**` may produce."""
MAX_STEPS = 1_000_000
"""The maximum of iterations and calls while a template is filled: about a second."""
MAX_CHARACTERS = 10_000_000
"""The maximum of characters that a template prints, in its text or on the way to it."""
MAX_RANGE = 100_000
"""The maximum of numbers of a `range`."""

_STEPS_A_CALL = 5
"""A call takes longer than an iteration."""
_BUDGET = "(budget)"
"""The variable with what a template has used so far; no template can name it."""
_WIDE = re.compile(r"\d{7,}|\*")
"""A width in a format that may exceed MAX_REPEATED."""


@dataclass
class Used:
    """What filling a template has taken so far."""

    steps: int = 0
    characters: int = 0

    def step(self, count: int, characters: int = 0) -> None:
        """Count iterations or calls, and characters that they print."""
        self.steps += count
        self.characters += characters
        if self.steps > MAX_STEPS:
            raise SecurityError(f"a template may take at most {MAX_STEPS:,} steps; does it have a loop that never ends?")
        if self.characters > MAX_CHARACTERS:
            raise SecurityError(f"a template may print at most {MAX_CHARACTERS:,} characters")


def _used(context: Context) -> Used:
    found: Used = context.parent[_BUDGET]
    return found


@pass_context  # so that Jinja computes nothing while it compiles
def _finalize(context: Context, value: Any) -> Any:
    """Let `{{ ... }}` print plain values only: an object's address would differ each time."""
    if value is None or isinstance(value, str | int | float | list | tuple | dict | StrictUndefined):
        text = str(value)
        _used(context).step(0, len(text))
        return text
    raise TypeError(f"a template prints a {type(value).__name__}, not text; are the parentheses of a call missing?")


@pass_context
def _finalize_field(context: Context, value: Any) -> Any:
    """Print fields of rows: a null prints nothing, a time as ISO 8601."""
    if isinstance(value, dt.date | dt.datetime):
        value = value.isoformat()
    return _finalize(context, "" if value is None else value)


@pass_context
def _counted(context: Context, items: Iterable[Any], characters: int = 0) -> Iterator[Any]:
    """The items of a loop, each a step that prints the literal text in the loop."""
    used = _used(context)
    for item in items:
        used.step(1, characters)
        yield item


@pass_context
def _limited(context: Context, text: str) -> str:
    """A text that was joined from others."""
    _used(context).step(0, len(text))
    return text


class _Bounds(NodeTransformer):
    """Makes loops and joined texts count."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802
        self.generic_visit(node)
        literal = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
        node.iter = nodes.Filter(node.iter, "(counted)", [nodes.Const(literal)], [], None, None)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:  # noqa: N802
        self.generic_visit(node)
        return nodes.Filter(node, "(limited)", [], [], None, None)


class _Environment(ImmutableSandboxedEnvironment):
    """A sandbox in which one operator cannot fill the memory or compute forever."""

    intercepted_binops = frozenset(["*", "**", "+", "%"])

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        parsed: nodes.Template = _Bounds().visit(super()._parse(source, name, filename))
        parsed.set_environment(self)
        return parsed

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute within limits."""
        if operator == "**" and isinstance(left, int) and left.bit_length() * abs(right) > MAX_POWER_BITS:
            raise SecurityError(f"a power in a template may have at most {MAX_POWER_BITS:,} bits")
        if operator == "*":
            for many, times in ((left, right), (right, left)):
                if isinstance(many, str | list | tuple) and isinstance(times, int) and len(many) * times > MAX_REPEATED:
                    raise SecurityError(f"repetition in a template may produce at most {MAX_REPEATED:,} characters")
        if operator == "+" and isinstance(left, str | list | tuple) and isinstance(right, str | list | tuple):
            _used(context).step(0, len(left) + len(right))
        if operator == "%" and isinstance(left, str):
            _check_format(left)
        return super().call_binop(context, operator, left, right)

    def call(self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call something; a call counts as some steps, and each number of a `range` as one."""
        used = _used(__context)
        used.step(_STEPS_A_CALL)
        if isinstance(__obj, LoopContext) and args:
            args = (_counted(__context, args[0]), *args[1:])
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str):
            _check_widths([*args, *kwargs.values()])
            if getattr(__obj, "__name__", "") == "replace":
                _check_replaced(owner, *args)
        made = super().call(__context, __obj, *args, **kwargs)
        if isinstance(made, range):
            used.step(len(made))
        return made

    def wrap_str_format(self, value: Any) -> Any:
        """A text's `format`, within limits."""
        if isinstance(owner := getattr(value, "__self__", None), str) and value.__name__ in ("format", "format_map"):
            _check_format(owner)
        return super().wrap_str_format(value)


def _check_widths(values: Iterable[Any]) -> None:
    if any(isinstance(value, int) and abs(value) > MAX_REPEATED for value in values):
        raise SecurityError(f"a width in a template may be at most {MAX_REPEATED:,}")


def _check_format(text: str) -> None:
    if _WIDE.search(text):
        raise SecurityError(f"a width in a format may be at most {MAX_REPEATED:,}, and is written out")


def _check_replaced(text: Any, old: Any = "", new: Any = "", *_: Any) -> None:
    if str(text).count(str(old)) * len(str(new)) > MAX_CHARACTERS:
        raise SecurityError(f"a template may print at most {MAX_CHARACTERS:,} characters")


def _range(*numbers: int) -> range:
    """A `range` within limits."""
    found = range(*numbers)
    try:
        many = len(found) > MAX_RANGE
    except OverflowError:
        many = True
    if many:
        raise SecurityError(f"a range in a template may have at most {MAX_RANGE:,} numbers")
    return found


def _within_limits(function: Any) -> Any:
    """A filter of Jinja that could make a text of any length, within limits."""

    @wraps(function)  # keeps Jinja's marks
    def checked(*args: Any, **kwargs: Any) -> Any:
        _check_widths([*args, *kwargs.values()])
        if function.__name__ == "do_format":
            _check_format(str(args[0]))
        if function.__name__ == "do_replace":
            _check_replaced(*args[1:])  # the first is Jinja's
        return function(*args, **kwargs)

    return checked


def _environment(finalize: Any) -> _Environment:
    made = _Environment(
        undefined=StrictUndefined, autoescape=False, keep_trailing_newline=False, finalize=finalize, optimized=False
    )
    del made.filters["random"], made.globals["lipsum"]
    made.globals["range"] = _range
    made.filters |= {"(counted)": _counted, "(limited)": _limited}  # no template can name them
    for name in ("center", "indent", "format", "batch", "slice", "wordwrap", "replace"):
        made.filters[name] = _within_limits(made.filters[name])
    return made


_ENVIRONMENT = _environment(_finalize)
_OF_ROWS = _environment(_finalize_field)


@cache
def compiled(template: str, of_rows: bool = False) -> Any:
    """A template, ready to be filled.

    Args:
        of_rows: whether its variables are the fields of a row; then it prints nothing for a null, and times as ISO 8601.
    """
    return (_OF_ROWS if of_rows else _ENVIRONMENT).from_string(template)


def filled(template: str, variables: Mapping[str, Any], *, of_rows: bool = False) -> str:
    """The text of a template with these variables. Raises what Jinja and the template's expressions raise."""
    return str(compiled(template, of_rows).render({**variables, _BUDGET: Used()}))


def parsed(text: str) -> nodes.Template:
    """A template's syntax tree.

    Raises:
        ValueError: it is not a template that can be compiled; says why.
    """
    try:
        compiled(text)
        found = _ENVIRONMENT.parse(text)
    except TemplateSyntaxError as error:
        why = "`random` would make each run different" if "'random'" in str(error.message) else error.message
        raise ValueError(f"not a valid template: {why} (line {error.lineno} of the prompt)") from error
    except RecursionError:
        raise ValueError("not a valid template: it is nested too deeply") from None
    if list(meta.find_referenced_templates(found)):
        raise ValueError("not a valid template: a prompt cannot include other templates")
    return found


def used_variables(template: nodes.Template) -> set[str]:
    """The names that a template looks up."""
    return meta.find_undeclared_variables(template)


def require_no_bare(text: str, variables: Iterable[str]) -> None:
    """Check that no variable is written as other tools write it; raises ValueError."""
    literal = literal_text(text)
    if bare := next((name for name in variables if _bare(name).search(literal)), None):
        raise ValueError(f"write {{{{ {bare} }}}} instead of {{{bare}}}, which is sent literally")


def require_valid(text: str, variables: Sequence[str]) -> None:
    """Check that a text is a template that uses some of these variables and no others.

    Raises:
        ValueError: it is not; says why.
    """
    used = used_variables(parsed(text))
    may = ", ".join(variables)
    if unknown := sorted(used - set(variables)):
        raise ValueError(f"the prompt uses {', '.join(unknown)}; it may use {may}")
    require_no_bare(text, variables)
    if not used:
        raise ValueError(f"the prompt is the same for every row, because it uses none of its variables ({may})")


@cache
def _bare(name: str) -> re.Pattern[str]:
    """A variable as other tools write it: `{question}`, `${question}`."""
    return re.compile(rf"(?<![\w{{\\]){{\s*{re.escape(name)}\s*}}(?!}})")


def literal_text(template: str) -> str:
    """The parts of a template that are sent literally."""
    return "".join(value for _, kind, value in _ENVIRONMENT.lex(template) if kind == "data")
