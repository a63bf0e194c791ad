"""Which rows have something to learn within max_length; TRL would drop the others without a word."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from engine.operator import Context, Reject
from operators.training.exposure import ROW


def fitting(
    rows: Iterable[dict[str, Any]], completions: Sequence[str], tokenizer: Any, max_length: int, ctx: Context
) -> list[dict[str, Any]]:
    """The rows whose prompts leave room for completions, each with its number in the column ROW.

    Metrics: `rows`, `rows_truncated`, `rows_dropped`.

    Args:
        rows: in TRL's form, `prompt` and completions as lists of messages.
        completions: the fields with completions.
        tokenizer: the student's.
        max_length: tokens of a prompt and a completion.

    Raises:
        Reject: no row is left.
    """
    kept = []
    total = truncated = dropped = 0
    for number, row in enumerate(rows):
        total += 1
        if _tokens(tokenizer, row["prompt"], add_generation_prompt=True) >= max_length:
            dropped += 1
            continue
        truncated += any(_tokens(tokenizer, row["prompt"] + row[each]) > max_length for each in completions)
        kept.append(row | {ROW: number})
    ctx.report("rows", total)
    ctx.report("rows_truncated", truncated)
    ctx.report("rows_dropped", dropped)
    if not total:
        raise Reject("there is nothing to train on: 0 rows came in")
    if not kept:
        raise Reject(f"all {total} prompts are longer than max_length={max_length}; nothing is left to learn")
    return kept


def _tokens(tokenizer: Any, messages: list[dict[str, str]], **more: Any) -> int:
    return len(tokenizer.apply_chat_template(messages, return_dict=True, **more)["input_ids"])
