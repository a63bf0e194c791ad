"""Images of the registry in values of rows, in prompts and among the files of a report, as data URLs that a page can show."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from typing import Any

from engine.operator.images import ImageError, image_kind, referenced_image
from registry import ObjectStore
from registry.errors import CorruptError

_MOST_BYTES = 4 << 20
"""The most bytes of a picture in a page."""

_MOST_OF_FILES = 48 << 20
"""The most characters of the data URLs of a report's pictures together: 36 MiB of files."""

_ENDINGS = (".png", ".jpg", ".jpeg", ".gif", ".webp")

_IN_PROMPT = re.compile(r"data:image/[a-z]+;base64,sha256:([0-9a-f]{64})")
"""What `llm_calls` has in place of a picture."""


def with_pictures(value: Any, store: ObjectStore) -> Any:
    """A value with data URLs in place of references to images; references that cannot be followed stay."""
    if isinstance(value, str):
        return _picture(value, store) or value
    if isinstance(value, Mapping):
        return {name: with_pictures(each, store) for name, each in value.items()}
    return [with_pictures(each, store) for each in value] if isinstance(value, list | tuple) else value


def pictures_of(files: Iterable[Mapping[str, Any]], store: ObjectStore) -> dict[str, str]:
    """The data URLs of the files that are pictures, by name, as far as they are small enough and can be read.

    Args:
        files: the `files` of an artifact's row.
    """
    found: dict[str, str] = {}
    left = _MOST_OF_FILES
    for file in files:
        name = str(file["name"])
        if name.lower().endswith(_ENDINGS) and int(file["bytes"]) <= _MOST_BYTES:
            url = _url(file["sha256"], name, store) or ""
            left -= len(url)
            if left < 0:
                break
            if url:
                found[name] = url
    return found


def _picture(text: str, store: ObjectStore) -> str | None:
    sha256 = referenced_image(text)
    if sha256 is None and (found := _IN_PROMPT.fullmatch(text)):
        sha256 = found[1]
    return _url(sha256, text, store) if sha256 else None


def _url(sha256: str, name: str, store: ObjectStore) -> str | None:
    try:
        content = store.read_bytes(sha256)
        kind = image_kind(content, name)
    except (CorruptError, ImageError, OSError):
        return None
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}" if len(content) <= _MOST_BYTES else None
