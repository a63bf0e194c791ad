"""Images of the registry are shown where rows and prompts refer to them; nothing else is."""

from __future__ import annotations

import base64

from engine.operator.images import image_reference
from engine.page.facts.datasets.pictures import with_pictures
from registry import Registry

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)


def test_references_become_pictures(registry: Registry) -> None:
    stored = registry.store.put_bytes(PNG).sha256
    url = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    prompt = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,sha256:{stored}"}}
    value = {"picture": image_reference(stored), "several": ["https://x/1", image_reference(stored)], "prompt": [prompt]}
    assert with_pictures(value, registry.store) == {
        "picture": url,
        "several": ["https://x/1", url],
        "prompt": [{"type": "image_url", "image_url": {"url": url}}],
    }


def test_what_cannot_be_shown_stays_a_reference(registry: Registry) -> None:
    no_image = registry.store.put_bytes(b"rows of another dataset").sha256
    large = registry.store.put_bytes(PNG + bytes(4 << 20)).sha256
    for sha256 in (no_image, large, "0" * 64):
        assert with_pictures(image_reference(sha256), registry.store) == image_reference(sha256)
    assert with_pictures(f"see {image_reference(no_image)}", registry.store).startswith("see image:sha256:")
