"""Requests to a server over HTTP: sessions, the API key, JSON there and back."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp

from engine.credentials import ENV
from engine.llm.providers.failures import connection_failure, error_inside, failure
from engine.llm.providers.response_body import MOST_BYTES, GarbledError, decoded, excerpt, from_json, read_body, read_start
from engine.llm.types.errors import EndpointError
from engine.llm.types.model_spec import ModelSpec

_HERE = {"localhost", "127.0.0.1", "::1"}


async def post_json(
    client: aiohttp.ClientSession,
    url: str,
    asked: Any,
    spec: ModelSpec,
    *,
    most: int = MOST_BYTES,
    heard: bool = True,
    expected: str = "choices",
) -> Any:
    """POST a JSON document and return the JSON of the response. Failures are raised by class.

    The errors quote the server verbatim: raise them through `redacted`.

    Args:
        most: the maximum size of the response in bytes.
        heard: whether the server has ever answered.
        expected: the key that every answer of this kind of server has.
    """
    try:
        # A redirect would send the prompt to another host, and the journal would record the answer under this one.
        async with client.post(url, json=asked, allow_redirects=False) as response:
            if response.status != 200:
                text = (await read_start(response)).decode(errors="replace")
                raise failure(response.status, text, response.headers, spec)
            text = decoded(await read_body(response, most), response.charset)
            answer = _parsed(text, expected)
            if (status := error_inside(answer)) is not None:
                raise failure(status, text, response.headers, spec)
            return answer
    except (TimeoutError, aiohttp.ClientError, ValueError, OSError) as error:
        raise connection_failure(error, url, spec, heard=heard) from None


class Credentials(NamedTuple):
    """The headers of a model's requests, and the secrets in them, which nobody may see."""

    headers: Mapping[str, str]
    secrets: tuple[str, ...]


def session(spec: ModelSpec, credentials: Credentials, timeout: aiohttp.ClientTimeout) -> aiohttp.ClientSession:
    """A session that keeps as many connections as requests may be in flight.

    It goes through the proxies of the environment (`HTTPS_PROXY`, `NO_PROXY`, ...), except to this machine and to servers that
    the engine has started.
    """
    return aiohttp.ClientSession(
        headers=credentials.headers,
        trust_env=spec.serve is None and (urlsplit(spec.endpoint).hostname or "") not in _HERE,
        timeout=timeout,
        connector=aiohttp.TCPConnector(limit=spec.limits.concurrency),
        json_serialize=_dumps,
    )


def credentials(spec: ModelSpec) -> Credentials:
    """Keys and headers, with what the environment has; raises EndpointError if something is missing."""
    found = {name: _variable(name) for name in spec.environment}
    headers = {"Authorization": f"Bearer {found[spec.api_key_env]}"} if spec.api_key_env else {}
    headers |= {name: ENV.sub(lambda match: found[match[1]], value) for name, value in spec.headers.items()}
    return Credentials(headers, tuple(dict.fromkeys(found.values())))


def _variable(name: str) -> str:
    secret = os.environ.get(name, "").strip()
    if any(not letter.isprintable() for letter in secret):
        raise EndpointError(f"the key in {name} contains a line break or another control character")
    if not secret:
        # Jobs do not carry keys: every node of a cluster must have its own.
        raise EndpointError(f"the environment variable {name} is not set on {socket.gethostname()}")
    return secret


def _dumps(document: Any) -> str:
    return json.dumps(document, separators=(",", ":"))


def _parsed(text: str, expected: str) -> Any:
    try:
        answer = from_json(text)
    except GarbledError as error:
        raise GarbledError(f"{error}; it begins with: {excerpt(text) or '(nothing)'}{_streams(text)}") from None
    if not isinstance(answer, dict):
        raise GarbledError(f"the response is not a chat completion: {excerpt(text)}")
    if expected not in answer and error_inside(answer) is None:
        raise GarbledError(f"the response is not a chat completion, because it has no `{expected}`: {excerpt(text)}")
    return answer


def _streams(text: str) -> str:
    streams = text.lstrip().startswith(("data:", "event:", ": "))
    return " (the server streams although the request does not ask for it; check its `stream` setting)" if streams else ""
