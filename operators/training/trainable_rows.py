"""Selects the rows that fit into max_length, and finds rows on which a trainer would fail, before a model is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

from engine.operator import Context, Reject
from operators.records import read_tools
from operators.training.exposure import ROW
from operators.training.rendering import Turn, left_out, presented, thinking_name
from registry.counted import counted

_SHOWN = 5


class SequenceLimit(NamedTuple):
    """The longest sequence that a model supports.

    Attributes:
        positions: the number of tokens; None if unknown.
        fixed: whether the model fails on a longer sequence; otherwise it has merely not been trained on one.
    """

    positions: int | None
    fixed: bool

    @classmethod
    def of(cls, config: Any) -> SequenceLimit:
        """The limit in a transformers configuration."""
        text = config.get_text_config()
        rotary = any(getattr(text, name, None) for name in ("rope_parameters", "rope_theta", "rope_scaling", "rotary_dim"))
        return cls(getattr(text, "max_position_embeddings", None), fixed=not rotary)


def trainable_rows(
    rows: Iterable[dict[str, Any]],
    completions: Sequence[str],
    tokenizer: Any,
    max_length: int,
    ctx: Context,
    limit: SequenceLimit = SequenceLimit(None, fixed=False),  # noqa: B008  (a tuple)
) -> list[dict[str, Any]]:
    """The rows whose prompts leave room for a completion, each with its number in the column ROW.

    Metrics: `rows`, `rows_truncated`, `rows_dropped`.

    Args:
        rows: rows in TRL's format, with `prompt` and completions as lists of messages.
        completions: the fields that contain completions.
        tokenizer: the student's.
        max_length: the maximum number of tokens in a prompt and a completion.
        ctx: receives the metrics and notes.
        limit: the student's.

    Raises:
        Reject: some rows cannot be trained on (the text names them and says what to do), or no row is left.
    """
    if not tokenizer.chat_template:
        raise Reject(
            "the student's tokenizer has no chat template, so rows cannot be turned into text: use the chat (instruct) "
            "version of the model, or add a chat_template.jinja to its folder"
        )
    kept = []
    bad: dict[str, list[int]] = {}
    blank: list[int] = []
    beyond: list[int] = []
    thinking = thinking_name(str(tokenizer.chat_template))
    total = truncated = dropped = 0
    for number, row in enumerate(rows):
        total += 1
        try:
            shown, lengths = _presented(row, completions, tokenizer, thinking)
        except _BadRowError as error:
            bad.setdefault(str(error), []).append(number)
            continue
        if lengths.prompt >= max_length:
            dropped += 1
            continue
        longest = min(lengths.whole, max_length)
        if limit.positions and longest > limit.positions:
            beyond.append(number)
        if any(not any(map(_has_content, shown[each])) for each in completions):
            blank.append(number)
        truncated += lengths.whole > max_length
        kept.append(shown | {ROW: number})
    if any("tools" in row for row in kept):  # a dataset has the columns of its first row
        kept = [{"tools": None, **row} for row in kept]
    _refuse(bad)
    if beyond:
        longer = (
            f"{_rows(beyond)}: longer than the {limit.positions} tokens that the model supports (max_length is {max_length})"
        )
        if limit.fixed:
            raise Reject(f"{longer}. Set max_length: {limit.positions} (longer rows are then cut off)")
        ctx.note(f"{longer}. The model may perform badly beyond that length")
    if blank:
        ctx.note(f"{_rows(blank)}: an empty completion, which teaches the model to give no answer")
    ctx.report("rows", total)
    ctx.report("rows_truncated", truncated)
    ctx.report("rows_dropped", dropped)
    if not total:
        raise Reject("there is nothing to train on: the input has no rows")
    if not kept:
        prompts = "the only prompt fills" if total == 1 else f"all {total:,} prompts fill"
        raise Reject(f"{prompts} max_length={max_length}, which leaves no room for a completion; raise max_length")
    return kept


def _has_content(turn: dict[str, Any]) -> bool:
    content = turn.get("content")
    return bool(content.strip() if isinstance(content, str) else content) or bool(turn.get("tool_calls"))


class _BadRowError(Exception):
    """Says why a row cannot be trained on, and what to do."""


class _Lengths(NamedTuple):
    """The number of tokens of a row's prompt, and of the prompt with its longest completion."""

    prompt: int
    whole: int


def _presented(
    row: dict[str, Any], completions: Sequence[str], tokenizer: Any, thinking: str
) -> tuple[dict[str, Any], _Lengths]:
    """A row in the form that the template takes, and its lengths."""
    for field in ("prompt", *completions):
        if not row[field]:
            raise _BadRowError(f"`{field}` has no message; add one, or remove the row")
    tools = read_tools(row["tools"]) if row.get("tools") else None
    calls = any(turn.get("tool_calls") for field in ("prompt", *completions) for turn in row[field])
    failed: _BadRowError | None = None
    for objects in (True, False) if calls else (True,):
        present = partial(presented, thinking=thinking, objects=objects)
        shown = {field: present(row[field]) for field in ("prompt", *completions)}
        try:
            for each in completions:
                _check_whole(row["prompt"], row[each], tokenizer, tools, present)
            return row | shown, _lengths(shown, completions, tokenizer, tools)
        except _BadRowError as error:
            failed = failed or error
    assert failed is not None
    raise failed


def _check_whole(
    prompt: Sequence[Turn], completion: Sequence[Turn], tokenizer: Any, tools: Any, present: Callable[[Sequence[Turn]], Any]
) -> None:
    def render(turns: Sequence[Turn]) -> str:
        return str(_templated(tokenizer, present(turns), tokenize=False, tools=tools))

    if lost := left_out(prompt, completion, render, tools or ()):
        what = "leaves out tools" if lost == "tools" else f"leaves out {lost} of its turns"
        raise _BadRowError(
            f"the student's chat template {what}; take it out of the rows, or use a student whose template has a place for it"
        )


def _lengths(row: dict[str, Any], completions: Sequence[str], tokenizer: Any, tools: Any) -> _Lengths:
    prompt = _tokens(tokenizer, row["prompt"], add_generation_prompt=True, tools=tools)
    return _Lengths(prompt, max(_tokens(tokenizer, row["prompt"] + row[each], tools=tools) for each in completions))


def _tokens(tokenizer: Any, messages: list[dict[str, str]], **more: Any) -> int:
    return len(_templated(tokenizer, messages, return_dict=True, **more)["input_ids"])


def _templated(tokenizer: Any, messages: Sequence[Turn], **more: Any) -> Any:
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(messages, **more)
    except (TemplateError, LookupError, TypeError, ValueError, AttributeError) as error:  # a template is a program
        roles = [message["role"] for message in messages]
        raise _BadRowError(
            f"the student's chat template refuses its turns ({', '.join(roles)}): {error or type(error).__name__}; "
            f"{_remedy(roles)}, or use a student whose template accepts them"
        ) from error


def _remedy(roles: Sequence[str]) -> str:
    if "system" in roles:
        return "put the system text into the first user turn"
    if any(one == other for one, other in pairwise(roles)):
        return "join consecutive turns of the same role"
    if roles[0] != "user":
        return "start with a user turn"
    return "change or remove the row"


def _refuse(bad: dict[str, list[int]]) -> None:
    if not bad:
        return
    listed = [f"{_rows(numbers)}: {why}" for why, numbers in bad.items()]
    more = f"; and {counted(len(listed) - _SHOWN, 'other reason')}" if len(listed) > _SHOWN else ""
    raise Reject("rows that cannot be trained on: " + "; ".join(listed[:_SHOWN]) + more)


def _rows(numbers: Sequence[int]) -> str:
    """`row 3`, or `rows 3, 5 and 9`; only the first ones if there are many."""
    if len(numbers) == 1:
        return f"row {numbers[0]}"
    if len(numbers) > _SHOWN:
        return f"rows {', '.join(map(str, numbers[:_SHOWN]))} and {len(numbers) - _SHOWN} more"
    return f"rows {', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"
