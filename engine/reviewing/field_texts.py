"""Values of fields as the texts that reviewers read and edit, and back."""

from __future__ import annotations

import json
from typing import Any

from registry.records.described import DescribedType

_TEXTS = ("str", "datetime", "date", "bytes")


def as_text(value: Any) -> str:
    """A value, as JSON has it, as text: texts as they are, nothing for null, and everything else as JSON."""
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False, indent=1)


def from_text(text: str, about: DescribedType) -> Any:
    """The value that a text stands for; raises ValueError, with what is expected, if it stands for none."""
    if about.optional and not text.strip() and about.kind != "str":
        return None
    if about.kind == "words":
        return next((word for word in about.words if str(word) == text.strip()), text)
    if about.kind in _TEXTS:
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the new value is not JSON for {about}") from error
