"""Files that crashes and damage leave in a registry."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from registry.storage import plain_files

_UNFINISHED = {".*.tmp": "an unfinished file"}
_PATTERNS = {
    ".": {**_UNFINISHED, "*.building": "an unfinished catalog", "*.damaged-*": "a damaged catalog that was replaced"},
    **dict.fromkeys(("manifests", "runs", "pins", "numbers"), _UNFINISHED),
    "reviews": {"*/.*.tmp": "an unfinished file"},
}
"""By folder: which names such files have, and what they are."""


def crash_files(root: Path) -> Iterator[tuple[Path, str]]:
    """The files, and what each of them is."""
    for name, patterns in _PATTERNS.items():
        folder = root / name
        if plain_files.kind(folder) == "a folder":
            for pattern, what in patterns.items():
                yield from ((path, what) for path in sorted(folder.glob(pattern)))
