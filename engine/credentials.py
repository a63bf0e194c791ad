"""Recognises passwords and API keys, so that none is accepted in a pipeline file and none is shown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

_NAMES = re.compile(
    r"(^|[._-])(api[_-]?key|access[_-]?key([_-]?id)?|secret([_-]?(access[_-]?)?key)?|client[_-]?secret|pass(word|wd|phrase)?"
    r"|(access|api|auth|bearer|refresh|session|security|private|hf|sas)[_-]?token|pwd|authorization|credentials?|signature|sig"
    r"|(subscription|private|account)[_-]?key|cookie)$|^token$",
    re.IGNORECASE,
)
_SHORT = {"key", "auth", "sas", "code"}
"""Names that mean a secret in a URL's query, but many other things elsewhere."""

_KEYS = re.compile(
    r"\b(sk-[A-Za-z0-9_-]{20,}|sk-ant-[A-Za-z0-9_-]{16,}|hf_[A-Za-z0-9]{30,}|gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{30,}"
    r"|glpat-[\w-]{20,}|AKIA[0-9A-Z]{16}|ASIA[0-9A-Z]{16}|AIza[\w-]{35}|xox[abprs]-[\w-]{20,}|gsk_[A-Za-z0-9]{30,}"
    r"|eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,})"
)
"""API keys, in the formats of their issuers."""

_LOGIN = re.compile(r"(?<=://)[^/@\s?#]*(?=@)")
_QUERY = re.compile(r"([?&;#])([^=&;#\s?]+)=([^&;#\s'\")]*)")
HIDDEN = "***"

ENV = re.compile(r"\$\{env\.([A-Za-z_][A-Za-z0-9_]*)\}")
"""`${env.NAME}`, with which a pipeline file names an environment variable in place of its value."""


def is_key(text: str) -> bool:
    """Whether a text contains an API key of a known format."""
    return bool(_KEYS.search(text))


def names_secret(name: str) -> bool:
    """Whether a setting of this name is a secret: `api_key`, `password`, `x-amz-signature`."""
    return bool(_NAMES.search(name))


def secret_in_url(url: str) -> str:
    """Which secret a URL (also a chained one) contains: "an API key", "a secret (the query parameter 'token')"; or empty."""
    for part in url.split("::"):
        if "://" not in part:
            continue
        try:
            pieces = urlsplit(part)
        except ValueError:
            continue
        login = pieces.netloc.rpartition("@")[0]
        if ":" in unquote(login) or (login and pieces.scheme in ("http", "https")):
            return "a user name or a password"
        for query in (pieces.query, pieces.fragment):
            for name, value in parse_qsl(query.replace(";", "&")):
                if value and (names_secret(name) or name.lower() in _SHORT or is_key(value)):
                    return f"a secret (the query parameter {name!r})"
    return "an API key" if is_key(url) else ""


def secrets_in(value: Any, path: str) -> Iterator[str]:
    """The places of secrets in free-form settings: `extra_body.headers.Authorization`."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if isinstance(inner, str) and inner and names_secret(str(name)):
                yield f"{path}.{name}"
            else:
                yield from secrets_in(inner, f"{path}.{name}")
    elif isinstance(value, list | tuple):
        for place, inner in enumerate(value):
            yield from secrets_in(inner, f"{path}[{place}]")
    elif isinstance(value, str) and (is_key(value) or ("://" in value and secret_in_url(value))):
        yield path


def redacted(text: str) -> str:
    """The text with recognisable secrets hidden: logins and secret parameters of URLs, API keys."""
    text = _LOGIN.sub(
        lambda login: HIDDEN if ":" in unquote(login[0]) or "http" in _scheme(text, login.start()) else login[0], text
    )

    def query(match: re.Match[str]) -> str:
        secret = names_secret(unquote(match[2])) or unquote(match[2]).lower() in _SHORT
        return f"{match[1]}{match[2]}={HIDDEN}" if secret and match[3] else match[0]

    return _KEYS.sub(HIDDEN, _QUERY.sub(query, text))


def _scheme(text: str, start: int) -> str:
    return text[max(0, start - 8) : start].lower()
