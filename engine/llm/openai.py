"""Any server that speaks OpenAI's chat completions, over bare aiohttp.

aiohttp costs a tenth of the `openai` package's CPU per request, which on small machines is the difference between a
saturated endpoint and a saturated client; `benchmarks/clients.py` measures both.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp

from engine.llm import wire
from engine.llm.abilities import MEANING, Abilities, recall, remember
from engine.llm.base import Completion, EndpointError, ModelError, PassingError, Request, RequestError
from engine.llm.journal import Answers
from engine.spec import ModelSpec


class OpenAIProvider:
    """A client for one endpoint; connections are kept and reused.

    What the server turns out not to know (`n`, `response_format`) is done without from then on, and noted.

    Args:
        spec: the model.
        answers: where it is noted what the server can do.
    """

    def __init__(self, spec: ModelSpec, answers: Answers) -> None:
        self.notes: list[str] = []
        self._spec = spec
        self._answers = answers
        self._abilities: Abilities | None = None
        self._differently: dict[str, dict[str, bool]] = {}
        self._odd_schemas: set[str] = set()
        self._key = api_key(spec)
        self._session = session(spec, self._key, aiohttp.ClientTimeout(total=spec.timeout))

    async def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """One POST; see Provider.

        A request that is refused because of what not every server knows raises a PassingError, and is put differently
        when it is sent again. Only when that helps has anything been learnt of the server.
        """
        if self._abilities is None:
            self._abilities = await recall(self._answers, self._spec)
        first = requests[0]
        told = self._differently.pop(first.key, {})
        abilities = self._abilities.model_copy(update=told)
        if first.schema is not None and str(first.schema["title"]) in self._odd_schemas:
            abilities = abilities.model_copy(update={"response_format": False})
        requests = requests[: 1 if abilities.n is False else wire.MOST_AT_ONCE]
        try:
            found = await self._post(requests, abilities)
        except RequestError as error:
            more = self._other_words(requests, abilities, str(error)) if error.refused else None
            if more is None:
                raise
            self._differently[first.key] = told | more
            raise PassingError(str(error), differently=True) from error
        await self._learn(told)
        if len(requests) > 1:
            await self._learn({"n": len(found) == len(requests)})
        if first.schema is not None and abilities.response_format is not False:
            if _is_json(found[0].text):
                await self._learn({"response_format": True})
            elif found[0].text.strip() and not found[0].truncated:
                await self._learn({"response_format": False})
        return found

    def _other_words(self, requests: Sequence[Request], abilities: Abilities, refusal: str) -> dict[str, bool] | None:
        """What to take the server for when a request that was refused is sent again; None when that is of no use."""
        if abilities.max_completion_tokens is None and "max_completion_tokens" in refusal:
            return {"max_completion_tokens": True}
        schema = requests[0].schema
        held = schema is not None and abilities.response_format is not False
        if held and "invalid schema" in refusal.lower():
            self._odd_schemas.add(str(schema and schema["title"]))  # this one, not every one
            return {}
        more = {}
        if len(requests) > 1 and abilities.n is None:
            more["n"] = False
        if held and abilities.response_format is None:
            more["response_format"] = False
        return more or None

    def stop(self, why: ModelError) -> None:
        """See Provider: what was sent is paid for, and comes to its end."""

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def _learn(self, found_out: Mapping[str, bool]) -> None:
        assert self._abilities is not None
        if news := {ability: able for ability, able in found_out.items() if getattr(self._abilities, ability) is None}:
            self._abilities = self._abilities.model_copy(update=news)
            self.notes += [
                f"{self._spec.endpoint} does not know `{ability}` ({MEANING[ability]})"
                for ability, able in news.items()
                if not able
            ]
            await remember(self._answers, self._spec, self._abilities)

    async def _post(self, requests: Sequence[Request], abilities: Abilities) -> list[Completion]:
        asked = wire.body(self._spec, requests, abilities)
        started = time.perf_counter()
        answer = await post_json(self._session, f"{self._spec.endpoint}/chat/completions", asked, self._spec, self._key)
        return wire.completions(answer, requests, (time.perf_counter() - started) * 1000)


async def post_json(client: aiohttp.ClientSession, url: str, asked: Any, spec: ModelSpec, secret: str) -> Any:
    """POST a JSON document and give the JSON that comes back; what goes wrong is raised by class."""
    try:
        # A redirect would take the prompt to another host, and its answer would stand in the journal under this one.
        async with client.post(url, json=asked, allow_redirects=False) as response:
            if response.status != 200:
                raise wire.failure(response.status, await response.text(errors="replace"), response.headers, spec, secret)
            answer = await response.json(content_type=None)
            if isinstance(answer, dict) and answer.get("error") and not answer.get("choices"):
                raise wire.failure(wire.status_inside(answer), json.dumps(answer), response.headers, spec, secret)
            return answer
    except (TimeoutError, aiohttp.ClientError, ValueError) as error:
        raise connection_failure(error, url, spec) from error


def connection_failure(error: Exception, url: str, spec: ModelSpec) -> PassingError | EndpointError:
    """What went wrong before there was a response, or in the middle of it."""
    if isinstance(error, TimeoutError):
        return PassingError(f"{url}: no answer in {spec.timeout:g} s")
    if isinstance(error, aiohttp.InvalidURL):
        return EndpointError(f"{url} is not a URL; correct base_url")
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return PassingError(f"{url}: {error}; correct base_url, or check the network", unreachable=True)
    if isinstance(error, aiohttp.ClientConnectorError):
        said = f"nobody answers at {url} ({error.strerror or error}); is the server running, and base_url right?"
        return PassingError(said, unreachable=True)
    return PassingError(f"{url}: {type(error).__name__}: {error}", down=isinstance(error, aiohttp.ClientConnectionError))


def session(spec: ModelSpec, secret: str, timeout: aiohttp.ClientTimeout) -> aiohttp.ClientSession:
    """A client that keeps as many connections as requests may be in flight."""
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    return aiohttp.ClientSession(
        headers=headers,
        timeout=timeout,
        connector=aiohttp.TCPConnector(limit=spec.limits.concurrency),
        json_serialize=_dumps,
    )


def api_key(spec: ModelSpec) -> str:
    """The key from the environment; raises EndpointError when it should be there and is not."""
    secret = os.environ.get(spec.api_key_env, "").strip() if spec.api_key_env else ""
    if any(not letter.isprintable() for letter in secret):
        raise EndpointError(f"the key in {spec.api_key_env} has a line break or another control character in it")
    if spec.api_key_env and not secret:
        # Keys do not travel with jobs: every node of a cluster must have its own.
        raise EndpointError(f"the environment variable {spec.api_key_env} is not set on {socket.gethostname()}")
    return secret


def _dumps(document: Any) -> str:
    return json.dumps(document, separators=(",", ":"))


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False
