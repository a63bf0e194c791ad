"""Sampling parameters that a server refuses whatever their value is: they are left out from then on.

Models that reason take no temperature, other servers no seed. A value that is out of range is another matter: leaving it out
would answer another question than the pipeline asks, so that stays an error.
"""

from __future__ import annotations

import re

OPTIONAL = ("temperature", "top_p", "stop", "seed")
"""Those that a request can do without: the server has a default. Without `max_tokens` an answer would have no bound."""

_CODES = {"unsupported_value", "unsupported_parameter", "extra_forbidden", "unknown_parameter"}
_REFUSED = re.compile(
    r"\b(not|n't|un)[ -]?support|\bunsupported|\bunknown|\bunrecogni[sz]ed|\bunexpected|\bextra (inputs|fields|parameters)"
    r"|\bnot (permitted|allowed|accepted|available|recogni[sz]ed)|\bforbidden|\bdeprecated"
    r"|\bcannot (both )?be (used|specified|set)"
    r"|\bcannot find field|\b(may|can) only be\b|\bonly (the )?default\b|\bremove\b|\bno longer\b",
    re.IGNORECASE,
)
_OUT_OF_RANGE = re.compile(
    r"\bbetween\b|\bat (most|least)\b|\b(less|greater|more) than\b|[<>]=?\s*\d|\bout of range\b"
    r"|\btoo (large|small|high|low|long|many)\b"
    r"|\b(maximum|minimum) (value|of)\b",
    re.IGNORECASE,
)


def refused_parameter(code: str, param: str, words: str) -> str | None:
    """The parameter that a server refuses for every request, if its error says so.

    Args:
        code, param, words: the parts of the error, as the server sends them.
    """
    named = [name for name in OPTIONAL if param == name or _names(name, words)]
    if not named:
        return None
    clear = code in _CODES and (param in named or not param)
    if not clear and (out_of_range(words) or not _REFUSED.search(words)):
        return None
    # Where two exclude each other, the first one is the more important.
    return param if param in named else named[-1]


def renamed_max_tokens(words: str) -> bool:
    """Whether a server's error asks for `max_completion_tokens` in place of `max_tokens`, and not for a smaller one."""
    return "max_completion_tokens" in words and not out_of_range(words)


def out_of_range(words: str) -> bool:
    """Whether a server's error is about a value that is too large or too small."""
    return _OUT_OF_RANGE.search(words) is not None


def _names(name: str, words: str) -> bool:
    # `stop` and `seed` are ordinary words, too.
    quoted = rf"[\"'`.]{name}\b" if name in ("stop", "seed") else rf"\b{name}\b"
    return re.search(quoted, words) is not None
