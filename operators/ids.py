"""When two ids are equal."""

from __future__ import annotations

import re

_WHOLE = re.compile(r"([+-]?\d+)\.0+", re.ASCII)


def same_id(text: str) -> str:
    """An id in a form in which equal ids are equal texts. `1.0` and `1` are the same id, because pandas turns whole numbers
    into floats in a column with gaps. Other ids, such as `1.10` and `1.1`, stay different.
    """
    whole = _WHOLE.fullmatch(text)
    return whole[1] if whole else text
