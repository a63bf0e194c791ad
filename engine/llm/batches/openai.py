"""The HTTP calls of OpenAI's Batch API, and reading the files of a batch."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import aiohttp

from engine.llm.batches.polling import Patience
from engine.llm.providers import chat_completions
from engine.llm.providers.failures import connection_failure, failure
from engine.llm.providers.http import credentials, session
from engine.llm.providers.redaction import holds, redact, redacted
from engine.llm.providers.response_body import MOST_BYTES, decoded, excerpt, from_json, read_body, read_start
from engine.llm.types.completions import Completion
from engine.llm.types.errors import EndpointError, ModelError, RequestError, TransientError
from engine.llm.types.model_spec import ModelSpec
from engine.llm.types.requests import Request

_DAY = 86_400.0
_NOT_DONE = {"batch_expired", "batch_cancelled"}

T = TypeVar("T")
LineResult = Completion | ModelError | None
"""The result of one request in a batch; None if the batch ended before it was processed."""


class BatchApi:
    """Calls the Batch API. Waits out transient failures, unless noted otherwise; other failures are EndpointErrors.

    Attributes:
        trouble: how the last call failed, in the server's words; empty if it succeeded.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        known = credentials(spec)
        self._secrets = known.secrets
        # Files are large, so only the time without data is limited.
        self._session = session(spec, known, aiohttp.ClientTimeout(sock_connect=spec.connect_timeout, sock_read=spec.timeout))
        self._heard = False
        self.trouble = ""

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def upload(self, lines: bytes) -> str:
        """Upload an input file. Returns its id. A server that has never answered gets no more attempts than in chat mode."""

        async def send() -> str:
            form = aiohttp.FormData({"purpose": "batch"})
            form.add_field("file", lines, filename="batch.jsonl", content_type="application/jsonl")
            return await self._call("POST", "/files", _id, data=form)

        return await self._patiently(send, self._spec.retries)

    async def create(self, file: str) -> str:
        """Create a batch. Returns its id. One attempt: raises TransientError."""
        asked = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        return await self._call("POST", "/batches", _id, json=asked, timeout=self._timeout())

    async def find(self, file: str, since: float) -> str | None:
        """The batch of an input file, if it was created. One attempt: raises TransientError."""
        after: dict[str, str] = {}
        while True:
            page = await self._call("GET", "/batches", _json, params={"limit": "100", **after}, timeout=self._timeout())
            batches = page.get("data") or [{}]
            for batch in batches:
                if batch.get("input_file_id") == file:
                    return str(batch["id"])
            # The newest batches come first. One day of tolerance, because clocks differ.
            if not page.get("has_more") or batches[-1].get("created_at", 0) < since - _DAY:
                return None
            after = {"after": str(batches[-1]["id"])}

    async def look(self, batch: str) -> dict[str, Any]:
        """A batch's state."""
        path = f"/batches/{batch}"
        return dict(await self._patiently(lambda: self._call("GET", path, _json, timeout=self._timeout())))

    async def read(self, file: str, logprobs: frozenset[str], found: dict[str, LineResult]) -> bool:
        """Add each request's result in a file of answers or errors to `found`. Returns whether all lines were readable."""

        async def lines(response: aiohttp.ClientResponse) -> bool:
            whole, rest = True, b""
            async for chunk in response.content.iter_chunked(1 << 20):
                *complete, rest = (rest + chunk).split(b"\n")
                for line in complete:
                    whole &= self._take(line, logprobs, found)
            return self._take(rest, logprobs, found) and whole

        return await self._patiently(lambda: self._call("GET", f"/files/{file}/content", lines))

    def why(self, state: dict[str, Any]) -> str:
        """Why a batch failed, in the server's words."""
        errors = (state.get("errors") or {}).get("data") or []
        detail = "; ".join(
            f"line {each['line']}: {each['message']}" if each.get("line") else each["message"] for each in errors
        )
        words = f"{self._spec.endpoint}: batch {state['id']} failed: {excerpt(detail, 1000) or 'no reason given'}"
        return redact(words, *self._secrets)

    def _take(self, line: bytes, logprobs: frozenset[str], found: dict[str, LineResult]) -> bool:
        if not line.strip():
            return True
        try:
            document = from_json(line)
            key = str(document["custom_id"])
            found[key] = self._result(document, key in logprobs)
        except (ValueError, KeyError, TypeError, AttributeError):
            return False
        return True

    def _result(self, document: dict[str, Any], logprobs: bool) -> LineResult:
        error, response = document.get("error"), document.get("response") or {}
        if error and error.get("code") in _NOT_DONE:
            return None
        status, body = int(response.get("status_code") or 500), response.get("body")
        if status != 200:
            return self._failure(status, json.dumps(body or {"error": error}), {})
        # The original request may belong to another process; this much of it is enough to read the answer.
        sampling = {"extra_body": self._spec.extra_body, **({"logprobs": 0} if logprobs else {})}
        asked = Request(self._spec.endpoint, self._spec.model, (), sampling)
        try:
            with redacted(self._secrets):
                answer = chat_completions.completions(body, [asked], 0.0).completions[0]
                if holds(answer.words, self._secrets):
                    raise RequestError("the answer contains the API key, so it is discarded")
                return answer
        except ModelError as error_in_it:
            return error_in_it

    def _failure(self, status: int, text: str, headers: Mapping[str, str]) -> ModelError:
        try:
            with redacted(self._secrets):
                raise failure(status, text, headers, self._spec)
        except ModelError as error:
            return error

    def _timeout(self) -> aiohttp.ClientTimeout:
        return aiohttp.ClientTimeout(total=self._spec.timeout)

    async def _patiently(self, call: Callable[[], Awaitable[T]], tries_unheard: int | None = None) -> T:
        """Make a call until it succeeds; `tries_unheard`: further attempts at an address that has never answered."""
        patience, tries = Patience(), 0
        while True:
            try:
                return await call()
            except TransientError as error:
                if error.unreachable and not self._heard and tries_unheard is not None and tries >= tries_unheard:
                    raise EndpointError(str(error)) from error
                tries += 1
                await patience.wait(error)

    async def _call(self, method: str, path: str, read: Callable[[aiohttp.ClientResponse], Awaitable[T]], **more: Any) -> T:
        try:
            result = await self._request(method, path, read, **more)
        except ModelError as error:
            self.trouble = str(error)
            raise
        self.trouble = ""
        return result

    async def _request(self, method: str, path: str, read: Callable[[aiohttp.ClientResponse], Awaitable[T]], **more: Any) -> T:
        """One HTTP request. It concerns the whole batch, so it raises no RequestError."""
        url = self._spec.url(path)
        try:
            async with self._session.request(method, url, **more) as response:
                self._heard = True
                if response.status == 200:
                    return await read(response)
                text = (await read_start(response)).decode(errors="replace")
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError, KeyError, TypeError) as error:
            with redacted(self._secrets):
                raise connection_failure(error, url, self._spec, heard=self._heard) from None
        failed = self._failure(response.status, text, response.headers)
        raise EndpointError(str(failed)) if isinstance(failed, RequestError) else failed


async def _json(response: aiohttp.ClientResponse) -> dict[str, Any]:
    document = from_json(decoded(await read_body(response, MOST_BYTES), response.charset))
    if not isinstance(document, dict):
        raise TypeError("not a JSON object")
    return document


async def _id(response: aiohttp.ClientResponse) -> str:
    return str((await _json(response))["id"])
