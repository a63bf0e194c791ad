"""The normal form of ids."""

from __future__ import annotations

import re

_WHOLE = re.compile(r"([+-]?\d+)\.0+", re.ASCII)


def same_id(text: str) -> str:
    """The id in normal form: two ids are the same if their normal forms are equal. `1.0` and `1` are the same id, because
    pandas turns whole numbers into floats in a column with gaps. Other ids, such as `1.10` and `1.1`, stay different.
    """
    whole = _WHOLE.fullmatch(text)
    return whole[1] if whole else text
