"""Images of the registry in values of rows and in prompts, as data URLs that a page can show."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any

from engine.operator.images import ImageError, image_kind, referenced_image
from registry import ObjectStore
from registry.errors import CorruptError

_MOST_BYTES = 4 << 20
"""The most bytes of a picture in a page."""

_IN_PROMPT = re.compile(r"data:image/[a-z]+;base64,sha256:([0-9a-f]{64})")
"""What `llm_calls` has in place of a picture."""


def with_pictures(value: Any, store: ObjectStore) -> Any:
    """A value with data URLs in place of references to images; references that cannot be followed stay."""
    if isinstance(value, str):
        return _picture(value, store) or value
    if isinstance(value, Mapping):
        return {name: with_pictures(each, store) for name, each in value.items()}
    return [with_pictures(each, store) for each in value] if isinstance(value, list | tuple) else value


def _picture(text: str, store: ObjectStore) -> str | None:
    sha256 = referenced_image(text)
    if sha256 is None and (found := _IN_PROMPT.fullmatch(text)):
        sha256 = found[1]
    if sha256 is None:
        return None
    try:
        content = store.read_bytes(sha256)
        kind = image_kind(content, text)
    except (CorruptError, ImageError, OSError):
        return None
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}" if len(content) <= _MOST_BYTES else None
