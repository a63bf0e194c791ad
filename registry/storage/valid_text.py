"""Text that can be stored. Python's strings may also contain unpaired surrogates, which UTF-8 cannot encode."""

from __future__ import annotations

import re

_SURROGATE = re.compile("[\ud800-\udfff]")

INVALID = "contains an unpaired surrogate, which is not a character"


def is_valid(text: str) -> bool:
    """Whether a text can be stored."""
    try:
        text.isascii() or text.encode()
    except UnicodeEncodeError:
        return False
    return True


def valid(text: str) -> str:
    """The text itself; raises ValueError when it cannot be stored."""
    if not is_valid(text):
        raise ValueError(f"it {INVALID}")
    return text


def escaped(text: str) -> str:
    """The text with each unpaired surrogate as `\\udce9`, for names of files, whose bytes need not be UTF-8."""
    return text.encode(errors="backslashreplace").decode()


def repaired(text: str) -> str:
    """The text with each unpaired surrogate replaced by U+FFFD."""
    return text if is_valid(text) else _SURROGATE.sub("\ufffd", text)
