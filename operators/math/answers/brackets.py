"""Splits texts outside brackets, and reads what brackets enclose, in one pass over a text."""

from __future__ import annotations

import re

_OPEN = re.compile(r"[(\[{]|\\(?:langle|lfloor|lceil|lvert|begin ?\{\w+\})(?![A-Za-z])|\\\{")
_CLOSE = re.compile(r"[)\]}]|\\(?:rangle|rfloor|rceil|rvert|end ?\{\w+\})(?![A-Za-z])|\\\}")
_PAIRS = (("\\{", ("\\}",)), ("{", ("}",)), ("(", (")", "]")), ("[", ("]", ")")), ("\\langle", ("\\rangle",)))


def split(text: str, separator: re.Pattern[str]) -> list[str]:
    """The stripped pieces of a text between separators outside brackets."""
    pieces, depth, start, place = [], 0, 0, 0
    while place < len(text):
        if found := _OPEN.match(text, place):
            depth += 1
        elif found := _CLOSE.match(text, place):
            depth -= 1
        elif depth == 0 and (found := separator.match(text, place)) and found[0]:
            pieces.append(text[start:place])
            start = found.end()
        elif text[place] == "\\":
            found = re.compile(r"\\(?:[A-Za-z]+|.)?", re.DOTALL).match(text, place)
        place = found.end() if found else place + 1
    return [piece.strip() for piece in [*pieces, text[start:]]]


def enclosed(text: str) -> tuple[str, str, str] | None:
    """(opening, closing, content) of a text that is enclosed in brackets; None if it is not."""
    for opening, closings in _PAIRS:
        for closing in closings:
            if text.startswith(opening) and text.endswith(closing) and len(text) >= len(opening) + len(closing):
                if _closes_at_the_end(text):
                    return (
                        opening.replace("\\langle", "<"),
                        closing.replace("\\rangle", ">"),
                        text[len(opening) : -len(closing)],
                    )
                return None
    return None


def _closes_at_the_end(text: str) -> bool:
    depth, place = 0, 0
    while place < len(text):
        if found := _OPEN.match(text, place):
            depth += 1
        elif found := _CLOSE.match(text, place):
            depth -= 1
            if depth == 0:
                return found.end() == len(text)
        place = found.end() if found else place + (2 if text[place] == "\\" else 1)
    return False
