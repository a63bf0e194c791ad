"""What a plan found out from rows, remembered in the user's cache, so that the next plan need not read them.

A key says everything that a finding follows from besides the engine. The engine's own files, Python and the packages that read
rows and prompts are added to it here. Findings are numbers, checksums and names of fields; no rows.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

import registry
from engine.fingerprint.versions import installed_version
from engine.user_cache import Entries
from registry.storage.checked_json import canonical_json

FINDINGS = Entries("plans", most=1000, largest=1 << 20)

_PACKAGES = ("posttrain-engine", "pyarrow", "pydantic", "pyyaml", "tokenizers", "jinja2", "pillow")

Finding = TypeVar("Finding", bound=BaseModel)


def recall(kind: type[Finding], key: Mapping[str, Any]) -> Finding | None:
    """What an earlier plan found under a key; None if there is nothing."""
    follows_from = _follows_from(kind, key)
    content = FINDINGS.read(_name(follows_from), follows_from) if _COMPUTED_BY else None
    try:
        return None if content is None else kind.model_validate_json(content)
    except ValidationError:  # not what this engine writes
        return None


def remember(found: BaseModel, key: Mapping[str, Any]) -> None:
    """Remember a finding for the plans to come, if that is possible."""
    if _COMPUTED_BY:
        follows_from = _follows_from(type(found), key)
        FINDINGS.write(_name(follows_from), follows_from, found.model_dump_json().encode())


def _name(follows_from: bytes) -> str:
    return hashlib.sha256(follows_from).hexdigest()


def _follows_from(kind: type[BaseModel], key: Mapping[str, Any]) -> bytes:
    return canonical_json({"kind": kind.__name__, "computed_by": _COMPUTED_BY, "key": dict(key)})


def _computed_by() -> list[str | None]:
    """What computes the findings: Python, packages, and the engine's files. Sizes and times stand for their content, as they do
    when Python loads modules that it has compiled before. Empty if the files cannot be listed."""
    try:
        files = [each for folder in (Path(__file__).parents[1], Path(registry.__file__).parent) for each in _files(str(folder))]
    except OSError:
        return []
    return [sys.version, *map(installed_version, _PACKAGES), *files]


def _files(folder: str) -> Iterator[str]:
    """The files in a folder, at any depth, each with its size and the time of its last change."""
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda each: each.name):
            if entry.is_dir():
                if entry.name != "__pycache__":
                    yield from _files(entry.path)
            else:
                about = entry.stat()
                yield f"{entry.path!a} {about.st_size} {about.st_mtime_ns}"


_COMPUTED_BY = _computed_by()
"""Looked up when this module is loaded: files that change in a process's lifetime are not what it computes with."""
