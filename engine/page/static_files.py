"""Style sheets, scripts and pictures that travel with the package. Only these files are served, by name from a list."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).with_name("static")

_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


@dataclass(frozen=True)
class StaticFile:
    """A file, its media type, and its SHA-256 in hex."""

    content: bytes
    media_type: str
    sha256: str


@cache
def static_files() -> dict[str, StaticFile]:
    """The files by their path below the folder. Licences and the list of libraries are not served."""
    found = {}
    for path in sorted(FOLDER.rglob("*")):
        if path.suffix in _TYPES:
            content = path.read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            found[path.relative_to(FOLDER).as_posix()] = StaticFile(content, _TYPES[path.suffix], digest)
    return found
