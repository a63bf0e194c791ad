"""Keeps API keys out of every text that comes from a server, however the server spells them.

A server's words reach errors, rejects, logs, run journals and terminals. They are redacted once, when a provider raises an
error, after everything has been decoded. The search runs on the text with its escapes decoded (JSON, URL, HTML), ignoring
case and white space; matches are replaced in the original text.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote

from engine.llm.types.errors import ModelError

HIDDEN = "***"
"""Shown in place of a key."""

PART = 8
"""Parts of a key of this length or more are hidden as well: servers repeat its beginning or end."""

_PART_ENCODED = 12
"""The same for its base64 and hex forms."""

_SPELLING = re.compile(
    r"\\+u(?P<u>[0-9a-f]{4})|\\+x(?P<x>[0-9a-f]{2})|%(?:25)*(?P<url>[0-9a-f]{2})|\\+(?P<escaped>[^\sux\\])"
    r"|&\#x(?P<hex>[0-9a-f]{1,6});|&\#(?P<decimal>[0-9]{1,7});|&(?P<named>[a-z]{2,8});",
    re.IGNORECASE,
)
_SKIPPED = re.compile(r"[\s\u00ad\u200b-\u200f\u2060\ufeff]")
"""White space and invisible characters. A key has none, but a text may insert them into a key."""


def redact(text: str, *secrets: str) -> str:
    """The text without the secrets and without parts of them of length PART or more, in any spelling."""
    for secret in secrets:
        text = _redact(text, secret)
    return text


def _redact(text: str, secret: str) -> str:
    if not secret:
        return text
    if len(secret) < PART:
        return text.replace(secret, HIDDEN)
    text = re.sub(re.escape(secret), HIDDEN, text, flags=re.IGNORECASE)  # even if the secret looks like an escape
    plain, places = _plain(text)
    spans: list[tuple[int, int]] = []
    for grams in _grams(secret):
        for start in range(len(plain) - grams.size + 1):
            if plain[start : start + grams.size] in grams.parts:
                spans.append((places[start][0], places[start + grams.size - 1][1]))
    return _without(text, spans)


def holds(text: str, secrets: Sequence[str]) -> bool:
    """Whether a model's answer contains a whole secret, plain or encoded.

    Short secrets are ignored: they are placeholders (`EMPTY`, `none`), for servers without keys.
    """
    return any(len(secret) >= PART and any(form in text for form in _whole(secret)) for secret in secrets)


@contextmanager
def redacted(secrets: Sequence[str]) -> Iterator[None]:
    """Removes secrets from model errors that are raised inside, and drops their causes, which may contain them as well."""
    try:
        yield
    except ModelError as error:
        error.args = (redact(str(error), *secrets),)
        error.__cause__ = error.__context__ = None
        raise error from None


class _Grams(NamedTuple):
    size: int
    parts: frozenset[str]


@lru_cache(16)
def _grams(secret: str) -> tuple[_Grams, ...]:
    forms = {_folded(secret), _folded(secret.encode().decode("latin-1"))}  # the second: UTF-8, escaped byte by byte
    encoded = {_folded(secret.encode().hex()), *map(_folded, _base64(secret))}
    return _Grams(PART, _parts(forms, PART)), _Grams(_PART_ENCODED, _parts(encoded, _PART_ENCODED))


def _parts(forms: set[str], size: int) -> frozenset[str]:
    return frozenset(form[start : start + size] for form in forms for start in range(len(form) - size + 1))


def _base64(secret: str) -> Iterator[str]:
    """The base64 forms of a secret, alone or inside a longer text (`user:secret`), without characters that depend on both."""
    data = secret.encode()
    for before in range(3):
        whole = base64.b64encode(b"\0" * before + data).decode()
        first = (before * 8 + 5) // 6
        last = (before + len(data)) * 8 // 6
        yield from (whole[first:last], whole[first:last].translate(str.maketrans("+/", "-_")))


@lru_cache(16)
def _whole(secret: str) -> tuple[str, ...]:
    escaped = secret.replace("/", "\\/")
    return tuple({secret, quote(secret, safe=""), escaped, secret.encode().hex(), *_base64(secret)})


def _plain(text: str) -> tuple[str, list[tuple[int, int]]]:
    """The text with its escapes decoded, in lower case and without white space; and each character's original position."""
    plain: list[str] = []
    places: list[tuple[int, int]] = []
    position = 0
    while position < len(text):
        spelt = _SPELLING.match(text, position) if text[position] in "\\%&" else None
        end = spelt.end() if spelt else position + 1
        for letter in _folded(_meant(spelt) if spelt else text[position]):
            plain.append(letter)
            places.append((position, end))
        position = end
    return "".join(plain), places


def _meant(spelt: re.Match[str]) -> str:
    kind, value = str(spelt.lastgroup), spelt[str(spelt.lastgroup)]
    if kind == "escaped":
        return value
    if kind == "named":
        return html.unescape(spelt[0])
    number = int(value, 10 if kind == "decimal" else 16)
    return chr(number) if number < 0x110000 else ""


def _folded(text: str) -> str:
    return _SKIPPED.sub("", text).lower()


def _without(text: str, spans: list[tuple[int, int]]) -> str:
    kept: list[str] = []
    end = 0
    for start, stop in sorted(spans):
        if start > end or not kept:
            kept += [text[end:start], HIDDEN]
        end = max(end, stop)
    return "".join(kept) + text[end:]
