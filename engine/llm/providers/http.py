"""Requests to a server over HTTP: sessions, the API key, JSON there and back."""

from __future__ import annotations

import json
import os
import socket
from typing import Any

import aiohttp

from engine.llm.providers.failures import connection_failure, error_inside, failure
from engine.llm.providers.response_body import MOST_BYTES, GarbledError, decoded, excerpt, from_json, read_body, read_start
from engine.llm.types.errors import EndpointError
from engine.llm.types.model_spec import ModelSpec


async def post_json(
    client: aiohttp.ClientSession, url: str, asked: Any, spec: ModelSpec, *, most: int = MOST_BYTES, heard: bool = True
) -> Any:
    """POST a JSON document and return the JSON of the response. Failures are raised by class.

    The errors quote the server verbatim: raise them through `redacted`.

    Args:
        most: the maximum size of the response in bytes.
        heard: whether the server has ever answered.
    """
    try:
        # A redirect would send the prompt to another host, and the journal would record the answer under this one.
        async with client.post(url, json=asked, allow_redirects=False) as response:
            if response.status != 200:
                text = (await read_start(response)).decode(errors="replace")
                raise failure(response.status, text, response.headers, spec)
            text = decoded(await read_body(response, most), response.charset)
            answer = _parsed(text)
            if (status := error_inside(answer)) is not None:
                raise failure(status, text, response.headers, spec)
            return answer
    except (TimeoutError, aiohttp.ClientError, ValueError, OSError) as error:
        raise connection_failure(error, url, spec, heard=heard) from None


def session(spec: ModelSpec, secret: str, timeout: aiohttp.ClientTimeout) -> aiohttp.ClientSession:
    """A session that keeps as many connections as requests may be in flight."""
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    return aiohttp.ClientSession(
        headers=headers,
        timeout=timeout,
        connector=aiohttp.TCPConnector(limit=spec.limits.concurrency),
        json_serialize=_dumps,
    )


def api_key(spec: ModelSpec) -> str:
    """The key from the environment; raises EndpointError if it is missing."""
    secret = os.environ.get(spec.api_key_env, "").strip() if spec.api_key_env else ""
    if any(not letter.isprintable() for letter in secret):
        raise EndpointError(f"the key in {spec.api_key_env} contains a line break or another control character")
    if spec.api_key_env and not secret:
        # Jobs do not carry keys: every node of a cluster must have its own.
        raise EndpointError(f"the environment variable {spec.api_key_env} is not set on {socket.gethostname()}")
    return secret


def _dumps(document: Any) -> str:
    return json.dumps(document, separators=(",", ":"))


def _parsed(text: str) -> Any:
    try:
        answer = from_json(text)
    except GarbledError as error:
        raise GarbledError(f"{error}; it begins with: {excerpt(text) or '(nothing)'}{_streams(text)}") from None
    if not isinstance(answer, dict):
        raise GarbledError(f"the response is not a chat completion: {excerpt(text)}")
    if "choices" not in answer and error_inside(answer) is None:
        raise GarbledError(f"the response is not a chat completion, because it has no `choices`: {excerpt(text)}")
    return answer


def _streams(text: str) -> str:
    streams = text.lstrip().startswith(("data:", "event:", ": "))
    return " (the server streams although the request does not ask for it; check its `stream` setting)" if streams else ""
