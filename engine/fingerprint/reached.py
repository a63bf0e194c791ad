"""What code reaches: the part of a step key that stands for an operator, a record type or a generator."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from engine.fingerprint.project_files import content_of
from registry.storage.checked_json import json_digest


@dataclass
class Fingerprint:
    """The code that an operator reaches.

    Attributes:
        code: name -> normalised source of a function, class or module, or canonical text of a constant.
        packages: installed packages by name -> version.
        required: the packages that the code cannot do without.
        files: the files of the project that constants name, and what they contained.
    """

    code: dict[str, str] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=dict)
    required: set[str] = field(default_factory=set)
    files: dict[Path, str] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """For a step key: hashes of the code, and the packages."""
        hashes = {name: digest_of(text) for name, text in sorted(self.code.items())}
        return {"code": hashes, "packages": dict(sorted(self.packages.items()))}

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the document. Nothing may be added to the fingerprint afterwards."""
        return json_digest(self.document())

    def is_current(self) -> bool:
        """Whether the files contain the same as before."""
        return all(content_of(path) == content for path, content in self.files.items())


def digest_of(text: str) -> str:
    """SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()
