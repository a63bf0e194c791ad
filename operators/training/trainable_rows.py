"""Which rows can be trained on within max_length; what a trainer would fail on is found before the model is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from engine.operator import Context, Reject
from operators.training.exposure import ROW

_SHOWN = 5


class Room(NamedTuple):
    """How long a sequence a model takes.

    Attributes:
        positions: tokens; None: it does not say.
        fixed: it has no more positions than that and fails on a longer sequence; otherwise it was only never trained on one.
    """

    positions: int | None
    fixed: bool

    @classmethod
    def of(cls, config: Any) -> Room:
        """That of a transformers configuration."""
        text = config.get_text_config()
        rotary = any(getattr(text, name, None) for name in ("rope_parameters", "rope_theta", "rope_scaling", "rotary_dim"))
        return cls(getattr(text, "max_position_embeddings", None), fixed=not rotary)


def fitting(
    rows: Iterable[dict[str, Any]],
    completions: Sequence[str],
    tokenizer: Any,
    max_length: int,
    ctx: Context,
    room: Room = Room(None, fixed=False),  # noqa: B008  (a tuple)
) -> list[dict[str, Any]]:
    """The rows whose prompts leave room for completions, each with its number in the column ROW.

    Metrics: `rows`, `rows_truncated`, `rows_dropped`.

    Args:
        rows: in TRL's form, `prompt` and completions as lists of messages.
        completions: the fields with completions.
        tokenizer: the student's.
        max_length: tokens of a prompt and a completion.
        ctx: for the metrics and notes.
        room: the student's.

    Raises:
        Reject: rows cannot be trained on (the error names them and says what to do), or none is left.
    """
    if not tokenizer.chat_template:
        raise Reject(
            "the student's tokenizer has no chat template, so rows cannot be turned into text: take the chat (instruct) "
            "version of the model, or put a chat_template.jinja into its folder"
        )
    kept = []
    bad: dict[str, list[int]] = {}
    blank: list[int] = []
    beyond: list[int] = []
    total = truncated = dropped = 0
    for number, row in enumerate(rows):
        total += 1
        try:
            lengths = _lengths(row, completions, tokenizer)
        except _BadRowError as error:
            bad.setdefault(str(error), []).append(number)
            continue
        if lengths.prompt >= max_length:
            dropped += 1
            continue
        longest = min(lengths.whole, max_length)
        if room.positions and longest > room.positions:
            beyond.append(number)
        if any(not any(map(_says, row[each])) for each in completions):
            blank.append(number)
        truncated += lengths.whole > max_length
        kept.append(row | {ROW: number})
    _refuse(bad)
    if beyond:
        longer = (
            f"{_rows(beyond)}: longer than the {room.positions} tokens that the model takes, and max_length is {max_length}"
        )
        if room.fixed:
            raise Reject(f"{longer}. Set max_length: {room.positions} (what is longer is then cut off)")
        ctx.note(f"{longer}: it is trained on lengths that it may not have seen")
    if blank:
        ctx.note(f"{_rows(blank)}: a completion without text, from which the model learns to say nothing")
    ctx.report("rows", total)
    ctx.report("rows_truncated", truncated)
    ctx.report("rows_dropped", dropped)
    if not total:
        raise Reject("there is nothing to train on: 0 rows came in")
    if not kept:
        raise Reject(f"all {total} prompts are longer than max_length={max_length}; nothing is left to learn")
    return kept


def _says(turn: dict[str, Any]) -> bool:
    content = turn.get("content")
    return bool(content.strip() if isinstance(content, str) else content) or bool(turn.get("tool_calls"))


class _BadRowError(Exception):
    """Why a row cannot be trained on, and what to do."""


class _Lengths(NamedTuple):
    """Tokens of a row's prompt, and of the prompt with its longest completion."""

    prompt: int
    whole: int


def _lengths(row: dict[str, Any], completions: Sequence[str], tokenizer: Any) -> _Lengths:
    for field in ("prompt", *completions):
        if not row[field]:
            raise _BadRowError(f"`{field}` has no message; give it one, or leave the row out")
    prompt = _tokens(tokenizer, row["prompt"], add_generation_prompt=True)
    return _Lengths(prompt, max(_tokens(tokenizer, row["prompt"] + row[each]) for each in completions))


def _tokens(tokenizer: Any, messages: list[dict[str, str]], **more: Any) -> int:
    from jinja2 import TemplateError

    try:
        return len(tokenizer.apply_chat_template(messages, return_dict=True, **more)["input_ids"])
    except (TemplateError, LookupError, TypeError, ValueError, AttributeError) as error:  # a template is a program
        roles = [message["role"] for message in messages]
        raise _BadRowError(
            f"the student's chat template refuses its turns ({', '.join(roles)}): {error or type(error).__name__}; "
            f"{_cure(roles)}, or take a student whose template takes them"
        ) from error


def _cure(roles: Sequence[str]) -> str:
    if "system" in roles:
        return "put the system text into the first user turn"
    if any(one == other for one, other in pairwise(roles)):
        return "join turns of one role that follow each other"
    if roles[0] != "user":
        return "begin with a user turn"
    return "change or leave out the row"


def _refuse(bad: dict[str, list[int]]) -> None:
    if not bad:
        return
    listed = [f"{_rows(numbers)}: {why}" for why, numbers in bad.items()]
    more = f"; and {len(listed) - _SHOWN} other reasons" if len(listed) > _SHOWN else ""
    raise Reject("rows that cannot be trained on: " + "; ".join(listed[:_SHOWN]) + more)


def _rows(numbers: Sequence[int]) -> str:
    """`row 3`, or `rows 3, 5 and 9`; of many, the first ones."""
    if len(numbers) == 1:
        return f"row {numbers[0]}"
    if len(numbers) > _SHOWN:
        return f"rows {', '.join(map(str, numbers[:_SHOWN]))} and {len(numbers) - _SHOWN} more"
    return f"rows {', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"
