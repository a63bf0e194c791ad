"""A server's response as data: bodies of limited size, and a JSON reader that returns data or a clear error."""

from __future__ import annotations

import codecs
import json
import re
from typing import TYPE_CHECKING, Any

from registry.storage.valid_text import repaired

if TYPE_CHECKING:
    import aiohttp

MOST_ERROR_BYTES = 1 << 20
"""The part of an error response that is read; the rest is dropped."""

MOST_BYTES, MOST_BYTES_A_TOKEN, MOST_BYTES_A_LOGPROB = 16 << 20, 64, 8 << 10
"""The size limit of a response after decompression: a base, and an addition for each requested token, which is larger with
log-probabilities and their alternatives."""

_WORDS = 500
_CHARSET = re.compile(r"iso8859-\d+|cp\d+|gbk|gb2312|gb18030|big5|shift_jis|euc_(jp|kr)|koi8-[ru]|ascii|utf-(8|16|32)(-[bl]e)?")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class GarbledError(ValueError):
    """A body is not in the format that it claims."""


def body_limit(max_tokens: int, answers: int, logprobs: bool) -> int:
    """The maximum size in bytes of the response to such a request."""
    return MOST_BYTES + max_tokens * answers * (MOST_BYTES_A_LOGPROB if logprobs else MOST_BYTES_A_TOKEN)


async def read_body(response: aiohttp.ClientResponse, most: int) -> bytes:
    """The body, decompressed as it arrives, so that a decompression bomb takes no memory.

    Raises:
        GarbledError: it has more than `most` bytes.
    """
    parts, size = [], 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > most:
            response.close()
            raise GarbledError(f"the response exceeds the limit of {most / (1 << 20):.0f} MiB (after decompression)")
        parts.append(part)
    return b"".join(parts)


async def read_start(response: aiohttp.ClientResponse, most: int = MOST_ERROR_BYTES) -> bytes:
    """The first bytes of a body."""
    parts, size = [], 0
    async for part in response.content.iter_any():
        parts.append(part)
        size += len(part)
        if size >= most:
            response.close()
            break
    return b"".join(parts)[:most]


def decoded(body: bytes, charset: str | None) -> str:
    """A body as text. JSON is UTF-8, whatever the server declares; if it is not, the declared charset is tried.

    Raises:
        GarbledError: neither fits.
    """
    try:
        return body.decode(json.detect_encoding(body)).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        try:
            codec = codecs.lookup(charset or "").name
            if _CHARSET.fullmatch(codec):
                return body.decode(codec)
        except (LookupError, ValueError):
            pass
        raise GarbledError(f"the response is not UTF-8 ({error.reason} at byte {error.start})") from None


def from_json(text: str | bytes) -> Any:
    """JSON as data. Integers with thousands of digits become floats.

    Raises:
        GarbledError: it is not JSON, or is nested too deeply.
    """
    try:
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            raise
        except UnicodeDecodeError:
            raise
        except ValueError:  # an integer with more digits than Python accepts
            return json.loads(text, parse_int=float)
    except RecursionError:
        raise GarbledError("the response is JSON that is nested too deeply") from None
    except ValueError as error:
        raise GarbledError(f"the response is not JSON ({error})") from None


def excerpt(text: str, most: int = _WORDS) -> str:
    """The beginning of a server's text on one line, with control characters escaped and unpaired surrogates replaced."""
    line = " ".join(text[: 8 * most].split())
    line = _CONTROL.sub(lambda found: ascii(found[0])[1:-1], repaired(line))
    return line if len(line) <= most else line[: most - 1] + "…"
