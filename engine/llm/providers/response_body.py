"""What a server sent, as data: bodies of bounded size, and JSON that is read or refused whatever it holds."""

from __future__ import annotations

import codecs
import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import aiohttp

MOST_ERROR_BYTES = 1 << 20
"""Read of a response that is an error; the rest of it is not waited for."""

MOST_BYTES, MOST_BYTES_A_TOKEN, MOST_BYTES_A_LOGPROB = 16 << 20, 64, 8 << 10
"""The limit of a response, after decompression: so much, and so much more for each token that was asked for (with its
log-probabilities and their alternatives)."""

_WORDS = 500
_CHARSET = re.compile(r"iso8859-\d+|cp\d+|gbk|gb2312|gb18030|big5|shift_jis|euc_(jp|kr)|koi8-[ru]|ascii|utf-(8|16|32)(-[bl]e)?")
_HALF = re.compile("[\ud800-\udfff]")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class GarbledError(ValueError):
    """A body is not what it says it is."""


def body_limit(max_tokens: int, answers: int, logprobs: bool) -> int:
    """The most bytes that a response to such a request may have."""
    return MOST_BYTES + max_tokens * answers * (MOST_BYTES_A_LOGPROB if logprobs else MOST_BYTES_A_TOKEN)


async def read_body(response: aiohttp.ClientResponse, most: int) -> bytes:
    """The body, decompressed as it comes in, so that a small one that grows takes no memory.

    Raises:
        GarbledError: it has more than `most` bytes.
    """
    parts, size = [], 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > most:
            response.close()
            raise GarbledError(
                f"the response has more than {most / (1 << 20):.0f} MiB (after decompression), which is the limit"
            )
        parts.append(part)
    return b"".join(parts)


async def read_start(response: aiohttp.ClientResponse, most: int = MOST_ERROR_BYTES) -> bytes:
    """The first bytes of a body, of which more is not needed."""
    parts, size = [], 0
    async for part in response.content.iter_any():
        parts.append(part)
        size += len(part)
        if size >= most:
            response.close()
            break
    return b"".join(parts)[:most]


def decoded(body: bytes, charset: str | None) -> str:
    """A body as text. JSON is UTF-8, whatever a server declares; another common charset counts where it is not.

    Raises:
        GarbledError: it is neither.
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
    """JSON as data. Integers of thousands of digits become floats.

    Raises:
        GarbledError: it is not JSON, or nested too deeply to be read.
    """
    try:
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            raise
        except UnicodeDecodeError:
            raise
        except ValueError:  # an integer with more digits than Python reads
            return json.loads(text, parse_int=float)
    except RecursionError:
        raise GarbledError("the response is JSON that is nested too deeply") from None
    except ValueError as error:
        raise GarbledError(f"the response is not JSON ({error})") from None


def excerpt(text: str, most: int = _WORDS) -> str:
    """The beginning of a server's text on one line, with control characters and halves of surrogate pairs made harmless."""
    line = " ".join(text[: 8 * most].split())
    line = _CONTROL.sub(lambda found: ascii(found[0])[1:-1], whole_characters(line))
    return line if len(line) <= most else line[: most - 1] + "…"


def has_half(text: str) -> bool:
    """Whether a text has half of a surrogate pair, which is no character and cannot be stored."""
    return not text.isascii() and _HALF.search(text) is not None


def whole_characters(text: str) -> str:
    """The text with each half of a surrogate pair replaced."""
    return _HALF.sub("\ufffd", text)
