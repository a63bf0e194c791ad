"""Ids that become parts of paths. They are checked when they are read, because a registry may come from anyone."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import StringConstraints

from registry.errors import CorruptError

_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")

Sha256 = Annotated[str, StringConstraints(pattern=f"^{_SHA256.pattern}$")]
"""64 hex digits."""

RunId = Annotated[str, StringConstraints(pattern=f"^{_RUN.pattern}$")]
"""The id of a run: letters, digits, `.`, `_` and `-`."""


def is_sha256(text: str) -> bool:
    """Whether a text is 64 hex digits."""
    return bool(_SHA256.fullmatch(text))


def run_id(text: str) -> str:
    """The text itself; raises CorruptError unless it is a valid id of a run."""
    if not _RUN.fullmatch(text):
        raise CorruptError(f"{text!r} is not the id of a run")
    return text


def version_id(text: str) -> str:
    """The text itself; raises CorruptError unless it is a valid id of a version."""
    if not is_sha256(text):
        raise CorruptError(f"{text!r} is not the id of a version")
    return text
