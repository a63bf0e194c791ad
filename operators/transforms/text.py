"""The texts of rows of any type, and the tokens by which their wording is compared."""

from __future__ import annotations

import re
import typing
import unicodedata
from collections.abc import Sequence
from typing import Any

from engine.operator import Record, Table, did_you_mean
from registry.records.columns import Column, columns_of

_TOKEN = re.compile(
    r"\d+(?:[.,]\d+)+"  # 1.5 is one word and differs from 15
    r"|[\u3040-\u30ff\u3400-\u9fff]"  # Chinese and Japanese put no blanks between words
    r"|[^\W_\u3040-\u30ff\u3400-\u9fff]+"
    r"|(?<=[\d)])!"  # a factorial
    r"|(?<![^\W\d_])-|-(?![^\W\d_])"  # a minus; between letters it is a hyphen
    r"|[^\w\s.,;:?!\"'`´‘’‚‛“”„«»‹›·•‐‑‒–—―¿¡、。・「」『』《》〈〉【】$\\-]"
)
_INVISIBLE = dict.fromkeys([0xAD, 0xFEFF, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2065)])
_POWERS = {ord(sign): f"^{digit}" for digit, sign in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")}  # NFKC would make 102 of 10²
_SAME = {**_INVISIBLE, **_POWERS, ord("−"): "-"}


def tokens(text: str) -> list[str]:
    """The text's words and symbols, in order; texts with the same tokens are exact duplicates.

    Case, width, white space, quotes and other punctuation do not count. Signs that change a formula count: operators and
    brackets are tokens, and `1.5` is not `15`.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text.translate(_SAME))
    text = text.casefold()
    return _TOKEN.findall(text if text.isascii() else unicodedata.normalize("NFKC", text))


def words(tokens: Sequence[str]) -> list[str]:
    """Tokens without symbols: the words of an n-gram."""
    return [token for token in tokens if token[0].isalnum()]


def texts_of(table: Table[Any], fields: Sequence[str] | None = None) -> list[tuple[str, ...]]:
    """The texts of the fields for each row; "" if there is none.

    A conversation's text consists of its turns, without the system message, which many rows share.

    Args:
        table: the rows.
        fields: names of fields that pass `wrong_fields`; by default the type's `main_field`.
    """
    if fields is None:
        main = main_field(table.record)
        assert main, f"{table.record.type_name()} has no text field"
        fields = [main]
    columns = [map(_text, table.arrow.column(name).to_pylist()) for name in fields]
    return list(zip(*columns, strict=True))


def as_one(texts: Sequence[str]) -> str:
    """A row's texts as one text."""
    return "\n\n".join(text for text in texts if text)


def main_field(record: type[Record]) -> str | None:
    """The first field with text or turns that is not an id (a problem's question, an example's prompt), if any."""
    for name, column in columns_of(record).parts.items():
        annotation = record.model_fields[name].annotation
        closed = column.kind == "str" and str not in (annotation, *typing.get_args(annotation))
        if name != "id" and not name.endswith("_id") and _has_text(column) and not closed:
            return name
    return None


def wrong_fields(record: type[Record], fields: Sequence[str] | None, parameter: str = "fields") -> list[str]:
    """Why these fields cannot be compared, for `Params.problems`; empty if they can."""
    if fields is None:
        return [] if main_field(record) else [f"{record.type_name()} has no text field"]
    columns, wrong = columns_of(record).parts, []
    for name in fields:
        if name not in columns:
            hint = did_you_mean(name, columns)
            wrong.append(f"{parameter}: {record.type_name()} has no field {name!r}" + (f"; {hint}" if hint else ""))
        elif not _has_text(columns[name]):
            wrong.append(f"{parameter}: field {name!r} of {record.type_name()} is not text")
    return wrong


def _has_text(column: Column) -> bool:
    if column.kind == "list":
        return _has_text(column.parts["[]"])
    if column.kind == "struct":
        return {"role", "content"} <= column.parts.keys()
    return column.kind == "str"


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "\n".join(text for text in map(_text, value) if text)
    if isinstance(value, dict):
        return "" if value["role"] == "system" else value["content"]
    return value or ""
