"""OpenAI's Batch API: an input file is uploaded, a batch is made of it, and its results are two files.

https://platform.openai.com/docs/api-reference/batch
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import aiohttp

from engine.llm.batches.open_batches import OpenBatch
from engine.llm.batches.service import DAY, BatchConnection, BatchState, LineResult, Uploaded, identifier
from engine.llm.providers import chat_completions
from engine.llm.providers.capabilities import KnownCapabilities
from engine.llm.providers.http import credentials
from engine.llm.providers.redaction import holds, redact, redacted
from engine.llm.providers.response_body import excerpt
from engine.llm.types.errors import ModelError, RequestError
from engine.llm.types.model_spec import ModelSpec
from engine.llm.types.requests import Request

_NOT_DONE = {"batch_expired", "batch_cancelled"}
_ENDED = {"completed", "failed", "expired", "cancelled"}


class OpenAIBatches:
    """See BatchService."""

    most_bytes = 200_000_000

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self.http = BatchConnection(spec, credentials(spec))

    def line(self, request: Request, known: KnownCapabilities) -> bytes:
        """See BatchService."""
        body = chat_completions.body(self._spec, [request], known)
        document = {"custom_id": request.key, "method": "POST", "url": "/v1/chat/completions", "body": body}
        return json.dumps(document, separators=(",", ":")).encode() + b"\n"

    def left_out(self, request: Request, known: KnownCapabilities) -> tuple[str, ...]:
        """See BatchService."""
        return chat_completions.left_out(request, known)

    def adaptation(self, refusal: RequestError, request: Request, known: KnownCapabilities) -> dict[str, bool]:
        """See BatchService."""
        if known.max_completion_tokens is None and "max_completion_tokens" in str(refusal):
            return {"max_completion_tokens": True}
        if refusal.parameter and getattr(known, refusal.parameter) is None:
            return {refusal.parameter: False}
        if request.schema is not None and known.response_format is None and "response_format" in str(refusal):
            return {"response_format": False}
        return {}

    async def upload(self, lines: Sequence[bytes]) -> Uploaded:
        """Upload the input file. See BatchService."""
        content = b"".join(lines)

        async def send() -> str:
            form = aiohttp.FormData({"purpose": "batch"})
            form.add_field("file", content, filename="batch.jsonl", content_type="application/jsonl")
            return await self.http.ask("POST", "/files", _id_in, data=form, large=True)

        return Uploaded(await self.http.patiently(send, self._spec.retries))

    async def create(self, note: OpenBatch, lines: Sequence[bytes]) -> str:
        """See BatchService. The requests are in the input file."""
        asked = {"input_file_id": note.file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        return await self.http.ask("POST", "/batches", _id_in, json=asked)

    async def find(self, note: OpenBatch, taken: Iterable[str]) -> str | None:
        """See BatchService."""
        after: dict[str, str] = {}
        while True:
            found, following = await self.http.ask(
                "GET", "/batches", lambda page: _of_file(page, note), params={"limit": "100", **after}
            )
            if found is not None or following is None or after == {"after": following}:
                return found
            after = {"after": following}

    async def look(self, batch: str) -> BatchState:
        """See BatchService."""
        return await self.http.patiently(lambda: self.http.ask("GET", f"/batches/{batch}", self._state))

    async def read(self, path: str, note: OpenBatch, found: dict[str, LineResult]) -> bool:
        """See BatchService."""

        def parse(document: Any) -> tuple[str, LineResult]:
            key = document["custom_id"]
            return key, self._result(document, note)

        return await self.http.results(path, frozenset(note.keys), parse, found)

    def _state(self, state: Any) -> BatchState:
        counts = state.get("request_counts") or {}
        files = [identifier(state[name]) for name in ("output_file_id", "error_file_id") if state.get(name)]
        return BatchState(
            ended=state["status"] in _ENDED,
            failed=self._why(state) if state["status"] == "failed" else "",
            paths=tuple(f"/files/{file}/content" for file in files),
            expected=sum(int(counts.get(name) or 0) for name in ("completed", "failed")),
        )

    def _why(self, state: dict[str, Any]) -> str:
        errors = (state.get("errors") or {}).get("data") or []
        detail = "; ".join(
            f"line {each['line']}: {each['message']}" if each.get("line") else str(each["message"]) for each in errors
        )
        words = f"{self._spec.endpoint}: batch {state['id']} failed: {excerpt(detail, 1000) or 'no reason given'}"
        return redact(words, *self.http.secrets)

    def _result(self, document: dict[str, Any], note: OpenBatch) -> LineResult:
        error, response = document.get("error"), document.get("response") or {}
        if error and error.get("code") in _NOT_DONE:
            return None
        status, body = int(response.get("status_code") or 500), response.get("body")
        if status != 200:
            return self.http.failure(status, json.dumps(body or {"error": error}), {})
        # The original request may belong to another process; this much of it is enough to read the answer.
        key = document["custom_id"]
        sampling = {"extra_body": self._spec.extra_body, **({"logprobs": 0} if key in note.logprobs else {})}
        asked = Request(self._spec.endpoint, self._spec.model, (), sampling, tools=note.tools_of(key))
        try:
            with redacted(self.http.secrets):
                answer = chat_completions.completions(body, [asked], 0.0).completions[0]
                if holds(answer.words, self.http.secrets):
                    raise RequestError("the answer contains the API key, so it is discarded")
                return answer
        except ModelError as error_in_it:
            return error_in_it


def _id_in(made: Any) -> str:
    return identifier(made["id"])


def _of_file(page: Any, note: OpenBatch) -> tuple[str | None, str | None]:
    """The batch of an input file on a page, and the id after which the next page begins; None if there is none."""
    batches = page.get("data") or []
    for batch in batches:
        if batch.get("input_file_id") == note.file:
            return identifier(batch["id"]), None
    # The newest batches come first. One day of tolerance, because clocks differ.
    if not batches or not page.get("has_more") or batches[-1].get("created_at", 0) < note.since - DAY:
        return None, None
    return None, identifier(batches[-1]["id"])
