"""When two ids are the same."""

from __future__ import annotations

import re

_WHOLE = re.compile(r"([+-]?\d+)\.0+", re.ASCII)


def same_id(text: str) -> str:
    """What equal ids have in common: `1.0` and `1` are one id, because pandas turns whole numbers into floats where some
    row has none. Ids that are not whole numbers, such as `1.10` and `1.1`, stay apart.
    """
    whole = _WHOLE.fullmatch(text)
    return whole[1] if whole else text
