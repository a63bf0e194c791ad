"""The names of variants, and of the parts of a pipeline in each of them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

Scalar = str | int | float | bool | None

Combination = Mapping[str, Scalar]
"""One value for each of some parameters of the matrix."""

_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_+.-]*")
_LONGEST, _KEPT = 40, 24
"""Characters of a text that is shown as it is, and of the beginning of one that is not."""


def label(combination: Combination) -> str:
    """The label of a combination: `lr=1e-05,teacher=a`; empty for an empty one."""
    return ",".join(f"{name}={label_of(value)}" for name, value in combination.items())


def label_of(value: Scalar) -> str:
    """The label of a value. A long text, or one with characters that no name has, becomes its beginning and a digest."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if not isinstance(value, str):
        return repr(value)
    if _PLAIN.fullmatch(value) and len(value) <= _LONGEST and ".." not in value:
        return value
    beginning = re.sub(r"[^A-Za-z0-9_+-]+", "-", value).strip("-")[:_KEPT]
    return f"{beginning}~{hashlib.sha256(value.encode()).hexdigest()[:8]}"


def named(combination: Combination, name: str) -> str:
    """The name of a part of the pipeline in a variant: `lr=1e-05/sft`; the name alone for an empty combination."""
    return f"{label(combination)}/{name}" if combination else name


def split_name(name: str) -> tuple[str, str]:
    """The variant (empty: none) and the name in the file of a part of the pipeline."""
    variant, _, own = name.rpartition("/")
    return variant, own
