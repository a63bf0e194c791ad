"""Images for a prompt: from a field with paths, http(s) URLs, data URLs or bytes, as parts of a message."""

from __future__ import annotations

import base64
import binascii
import os
import re
import stat
from pathlib import Path
from typing import Any

from engine.operator import DescribedType, Reject

MOST_IMAGES = 16
"""The most images of one row."""
MOST_BYTES = 20_000_000
"""The most bytes of one image: what common servers accept."""
BOUND_BYTES = 50_000
"""What the bounds of a plan assume for one image, in bytes of a prompt; the engine's budgets assume as many tokens."""

_KINDS = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg", b"GIF87a": "gif", b"GIF89a": "gif"}
_DATA = re.compile(r"data:image/(png|jpeg|jpg|gif|webp);base64,([A-Za-z0-9+/=\s]+)")
_SHOWN = 200


def takes_images(about: DescribedType) -> bool:
    """Whether a field of this type can have images: a text, bytes, Hugging Face's `{bytes, path}`, or a list of these."""
    if about.kind == "list":
        return about.item is not None and about.item.kind != "list" and takes_images(about.item)
    if about.kind == "struct":
        kinds = {field.name: field.type.kind for field in about.fields}
        return kinds == {"bytes": "bytes", "path": "str"}
    return about.kind in ("str", "bytes")


async def image_parts(value: Any) -> list[dict[str, Any]]:
    """The parts of a message for the images of a row.

    Raises:
        Reject: there is none, there are too many, or one of them cannot be used; says which and why.
    """
    given = [each for each in map(_given, value if isinstance(value, list) else [value]) if each]
    if not given:
        raise Reject("the row has no image")
    if len(given) > MOST_IMAGES:
        raise Reject(f"the row has {len(given)} images; the limit is {MOST_IMAGES}")
    import asyncio

    urls = [await asyncio.to_thread(_url, each) for each in given]
    return [{"type": "image_url", "image_url": {"url": url}} for url in urls]


def _given(image: Any) -> str | bytes | None:
    """An image as its bytes or its place; nothing if there is none."""
    if isinstance(image, dict):
        image = image["bytes"] or image["path"]
    return image.strip() if isinstance(image, str) else image


def _url(image: str | bytes) -> str:
    if isinstance(image, bytes):
        _check_size(len(image), "in the row")
        return _data_url(image, "in the row")
    if image.startswith(("http://", "https://")):
        return image
    if image.startswith("data:"):
        return _checked(image)
    if "://" in image:
        raise Reject(f"image {image:.{_SHOWN}}: give a path, an http(s) URL or a data URL")
    return _data_url(_read(image), image)


def _data_url(content: bytes, name: str) -> str:
    return f"data:image/{_kind(content, name)};base64,{base64.b64encode(content).decode()}"


def _checked(url: str) -> str:
    found = _DATA.fullmatch(url)
    if found is None:
        raise Reject(f"image {url:.60}: a data URL is data:image/png;base64,... (also jpeg, gif, webp)")
    try:
        content = base64.b64decode("".join(found[2].split()), validate=True)
    except binascii.Error as error:
        raise Reject(f"image {url:.60}: not base64: {error}") from error
    _check_size(len(content), f"{url[:60]}")
    return _data_url(content, url[:60])


def _read(path: str) -> bytes:
    try:
        about = os.stat(path)
        if not stat.S_ISREG(about.st_mode):
            raise Reject(f"image {path:.{_SHOWN}} is not a file")
        _check_size(about.st_size, path)
        with Path(path).open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL
        missing = isinstance(error, FileNotFoundError)
        where = f" (relative to {Path.cwd()})" if missing and not os.path.isabs(path) else ""
        why = "there is no such file" if missing else getattr(error, "strerror", None) or str(error)
        raise Reject(f"image {path:.{_SHOWN}}: {why}{where}") from error
    _check_size(len(content), path)
    return content


def _check_size(size: int, name: str) -> None:
    if size > MOST_BYTES:
        raise Reject(f"image {name:.{_SHOWN}} has {size:,} bytes; the limit is {MOST_BYTES:,}")


def _kind(content: bytes, name: str) -> str:
    """The type of an image, by its first bytes, whatever its name says."""
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "webp"
    for start, kind in _KINDS.items():
        if content.startswith(start):
            return kind
    raise Reject(f"image {name:.{_SHOWN}} is not a PNG, JPEG, GIF or WebP file")
