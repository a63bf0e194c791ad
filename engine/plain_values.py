"""Values of rows as JSON has them."""

from __future__ import annotations

import datetime as dt
import json
import math
from typing import Any

from engine.printable import harmless_json


def plain(value: Any) -> Any:
    """A value as JSON can represent it; NaN and infinity become null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dt.datetime | dt.date):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return str(value)


def as_json(value: Any) -> str:
    """Indented JSON without characters that could harm a terminal."""
    return harmless_json(json.dumps(plain(value), ensure_ascii=False, allow_nan=False, indent=2))


def json_line(value: Any) -> str:
    """The same, on one line."""
    return harmless_json(json.dumps(plain(value), ensure_ascii=False, allow_nan=False))
