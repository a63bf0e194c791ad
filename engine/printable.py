"""Makes text from outside safe to show, on a terminal and on a page.

Characters that move the cursor, reorder text, or are invisible are shown as escapes, such as `\\x1b` or `\\u202e`.
Everything else is unchanged, including emoji and all scripts.
"""

from __future__ import annotations

import re

from registry.counted import counted

# Control and format characters (categories Cc, Cf, Cs, Zl, Zp), except those that are part of words and emoji.
_HARMFUL = (
    r"\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb"
    r"\U000e0000-\U000e007f"
)
_IN_TEXT = re.compile(rf"[\x00-\x08\x0b-\x1f{_HARMFUL}]")
_IN_JSON = re.compile(rf"[{_HARMFUL}]")


def harmless(text: str) -> str:
    """The text with harmful characters replaced by escapes; line breaks and tabs stay."""
    return _IN_TEXT.sub(_escape, text)


def harmless_json(text: str) -> str:
    """The same for JSON text, whose meaning does not change."""
    return _IN_JSON.sub(_json_escape, text)


def _escape(found: re.Match[str]) -> str:
    number = ord(found[0])
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def _json_escape(found: re.Match[str]) -> str:
    number = ord(found[0])
    if number < 0x10000:
        return f"\\u{number:04x}"
    high, low = divmod(number - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"


def row_count(count: int) -> str:
    """`1 row`, `2,000 rows`."""
    return counted(count, "row")


def duration(seconds: float) -> str:
    """`8 s`, `12 min`, `3.4 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
