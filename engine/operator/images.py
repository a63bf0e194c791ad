"""Images in rows: references to objects of the registry, http(s) URLs, data URLs, or bytes; and images as parts of a message.

A row of a source holds a reference to each image that was read from a file, `image:sha256:<digest>`. So a row says what its
image shows, wherever the file was.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator
from typing import Any

MOST_BYTES = 20_000_000
"""The maximum size of one image that common servers accept, in bytes."""

KIND_BYTES = 12
"""How many bytes `image_kind` needs."""

REFERENCE = "image:sha256:"
"""How the reference to an image begins; its SHA-256 follows."""

_REFERENCE = re.compile(rf"{REFERENCE}([0-9a-f]{{64}})")
_KINDS = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg", b"GIF87a": "gif", b"GIF89a": "gif"}
_DATA = re.compile(r"data:image/(png|jpeg|jpg|gif|webp);base64,([A-Za-z0-9+/=\s]+)")
_SHOWN = 200


class ImageError(ValueError):
    """An image cannot be used; says which and why."""


def image_reference(sha256: str) -> str:
    """How a row refers to an image of the registry."""
    return f"{REFERENCE}{sha256}"


def referenced_image(text: str) -> str | None:
    """The SHA-256 of the image that a text refers to; None if it is not a reference."""
    found = _REFERENCE.fullmatch(text)
    return found[1] if found else None


def referenced_images(value: Any) -> Iterator[str]:
    """The SHA-256 of each image that a field, or the fields of a struct, refer to."""
    if isinstance(value, str):
        if value.startswith(REFERENCE) and (found := referenced_image(value)):
            yield found
    elif isinstance(value, dict):
        for each in value.values():
            yield from referenced_images(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from referenced_images(each)


def is_url(text: str) -> bool:
    """Whether a text is an address that a server fetches an image from."""
    return text.startswith(("http://", "https://"))


def image_kind(content: bytes, name: str) -> str:
    """`png`, `jpeg`, `gif` or `webp`, by the first bytes, whatever the name says.

    Args:
        name: the image for an error: `shown(name)`, or where it is.

    Raises:
        ImageError: it is none of these.
    """
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "webp"
    for start, kind in _KINDS.items():
        if content.startswith(start):
            return kind
    raise ImageError(f"image {name} is not a PNG, JPEG, GIF or WebP file")


def check_size(size: int, name: str) -> None:
    """Raise ImageError if an image has more bytes than servers accept; for `name`, see `image_kind`."""
    if size > MOST_BYTES:
        raise ImageError(f"image {name} has {size:,} bytes; the limit is {MOST_BYTES:,}")


def data_of_url(url: str) -> bytes:
    """The image in a data URL.

    Raises:
        ImageError: it is not one of an image, or not base64.
    """
    found = _DATA.fullmatch(url)
    if found is None:
        raise ImageError(f"image {shown(url[:60])}: a data URL is data:image/png;base64,... (also jpeg, gif, webp)")
    try:
        return base64.b64decode("".join(found[2].split()), validate=True)
    except binascii.Error as error:
        raise ImageError(f"image {shown(url[:60])}: not base64: {error}") from error


def image_part(image: str | bytes, read: Callable[[str], bytes]) -> dict[str, Any]:
    """An image as a part of a message.

    Args:
        image: a reference, an http(s) URL, a data URL, or the image's bytes.
        read: the bytes of an object of the registry.

    Raises:
        ImageError: it is none of these, has too many bytes, or is not a PNG, JPEG, GIF or WebP.
    """
    return {"type": "image_url", "image_url": {"url": _address(image, read)}}


def _address(image: str | bytes, read: Callable[[str], bytes]) -> str:
    if isinstance(image, bytes):
        return _data_url(image, "in the row")
    if is_url(image):
        return image
    if image.startswith("data:"):
        return _data_url(data_of_url(image), shown(image[:60]))
    if sha256 := referenced_image(image):
        return _data_url(read(sha256), shown(image))
    if "://" in image:
        raise ImageError(f"image {shown(image)}: give a file, an http(s) URL or a data URL")
    raise ImageError(
        f"image {shown(image)} is not in the registry; name its field under `images:` of the dataset, so that files are read "
        "with the rows"
    )


def _data_url(content: bytes, name: str) -> str:
    check_size(len(content), name)
    return f"data:image/{image_kind(content, name)};base64,{base64.b64encode(content).decode()}"


def shown(name: str) -> str:
    """An image's name for an error, in quotes, so that errors that differ only in the name count as one cause."""
    return repr(name[:_SHOWN])
