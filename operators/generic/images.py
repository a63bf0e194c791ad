"""The images of a row, as parts of a message."""

from __future__ import annotations

from typing import Any

from engine.operator import Context, DescribedType, Reject

MOST_IMAGES = 16
"""The most images of one row."""
BOUND_BYTES = 50_000
"""What the bounds of a plan assume for one image, in bytes of a prompt; the engine's budgets assume as many tokens."""


def takes_images(about: DescribedType) -> bool:
    """Whether a field of this type can have images: a text, bytes, Hugging Face's `{bytes, path}`, or a list of these."""
    if about.kind == "list":
        return about.item is not None and about.item.kind != "list" and takes_images(about.item)
    if about.kind == "struct":
        kinds = {field.name: field.type.kind for field in about.fields}
        return kinds == {"bytes": "bytes", "path": "str"}
    return about.kind in ("str", "bytes")


async def image_parts(value: Any, ctx: Context) -> list[dict[str, Any]]:
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

    return [await asyncio.to_thread(ctx.image, each) for each in given]


def _given(image: Any) -> str | bytes | None:
    """An image as its bytes or its place; nothing if there is none."""
    if isinstance(image, dict):
        image = image["bytes"] or image["path"]
    return image.strip() if isinstance(image, str) else image
