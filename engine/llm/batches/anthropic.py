"""Anthropic's Message Batches: requests travel with the batch, and its results are one file.

https://docs.claude.com/en/api/creating-message-batches

Such a batch carries no file or name by which we could find it. So the newest batch on the server is
noted before one is created; after an interruption, ours is among the newer ones, and its results name our requests.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import aiohttp

from engine.llm.batches.open_batches import OpenBatch
from engine.llm.batches.service import (
    DAY,
    MOST_LINE_BYTES,
    BatchConnection,
    BatchState,
    LineResult,
    UndecidedError,
    Uploaded,
    identifier,
)
from engine.llm.providers import messages_api
from engine.llm.providers.anthropic import headers_of, refused_feature
from engine.llm.providers.capabilities import KnownCapabilities
from engine.llm.providers.failures import status_of
from engine.llm.providers.redaction import holds, redacted
from engine.llm.providers.response_body import from_json
from engine.llm.types.errors import EndpointError, ModelError, RequestError, TransientError
from engine.llm.types.model_spec import ModelSpec
from engine.llm.types.requests import Request
from engine.llm.types.tools import Tools

_PATH = "/messages/batches"
_NOT_DONE = {"canceled", "expired"}
_COUNTS = ("processing", "succeeded", "errored", "canceled", "expired")


class _Listed(NamedTuple):
    """A batch in the server's list."""

    id: str
    requests: int
    created: float
    ended: bool
    gone: bool


class AnthropicBatches:
    """See BatchService."""

    most_bytes = 250_000_000

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self.http = BatchConnection(spec, headers_of(spec))

    def line(self, request: Request, known: KnownCapabilities) -> bytes:
        """See BatchService."""
        if "logprobs" in request.sampling:
            raise EndpointError(messages_api.NO_LOGPROBS)
        document = {"custom_id": request.key, "params": messages_api.body(self._spec, request, known)}
        return json.dumps(document, separators=(",", ":")).encode() + b"\n"

    def left_out(self, request: Request, known: KnownCapabilities) -> tuple[str, ...]:
        """See BatchService."""
        return messages_api.left_out(request, known)

    def adaptation(self, refusal: RequestError, request: Request, known: KnownCapabilities) -> dict[str, bool]:
        """See BatchService."""
        refused = refused_feature(refusal, request, known)
        return {} if refused is None or getattr(known, refused) is False else {refused: False}

    async def upload(self, lines: Sequence[bytes]) -> Uploaded:
        """Find the newest batch on the server. See BatchService."""
        listed, _ = await self.http.patiently(lambda: self._page({"limit": "1"}), self._spec.retries)
        return Uploaded(uuid.uuid4().hex, listed[0].id if listed else "")

    async def create(self, note: OpenBatch, lines: Sequence[bytes]) -> str | None:
        """See BatchService."""
        if len(lines) < len(note.keys):
            return None
        content = b'{"requests":[' + b",".join(line.rstrip() for line in lines) + b"]}"
        kind = {"Content-Type": "application/json"}
        return await self.http.ask("POST", _PATH, lambda made: identifier(made["id"]), data=content, headers=kind, large=True)

    async def find(self, note: OpenBatch, taken: Iterable[str]) -> str | None:
        """See BatchService. The newer batches of the same size may be ours; those that have ended say so."""
        undecided = ""
        for each in await self._newer(note):
            if each.requests != len(note.keys) or each.id in taken or each.gone:
                continue
            if not each.ended:
                undecided = undecided or each.id
            elif await self._is_of(each.id, note):
                return each.id
        if undecided:
            raise UndecidedError(
                f"the creation of a batch was interrupted; its results will show whether it is batch {undecided}"
            )
        return None

    async def look(self, batch: str) -> BatchState:
        """See BatchService."""
        return await self.http.patiently(lambda: self.http.ask("GET", f"{_PATH}/{batch}", _state))

    async def read(self, path: str, note: OpenBatch, found: dict[str, LineResult]) -> bool:
        """See BatchService."""
        return await self.http.results(
            path,
            frozenset(note.keys),
            lambda line: (line["custom_id"], self._result(line["result"], note.tools_of(line["custom_id"]))),
            found,
        )

    async def _newer(self, note: OpenBatch) -> list[_Listed]:
        """The batches that the server has got since a note, the newest first."""
        newer: list[_Listed] = []
        after: dict[str, str] = {}
        while True:
            page, more = await self._page({"limit": "100", **after})
            for each in page:
                # One day of tolerance, because clocks differ; the batch itself may have been deleted.
                if each.id == note.newest or each.created < note.since - DAY:
                    return newer
                newer.append(each)
            if not page or not more or after == {"after_id": page[-1].id}:
                return newer
            after = {"after_id": page[-1].id}

    async def _page(self, params: dict[str, str]) -> tuple[list[_Listed], bool]:
        return await self.http.ask(
            "GET", _PATH, lambda page: ([_listed(each) for each in page["data"]], page.get("has_more") is True), params=params
        )

    async def _is_of(self, batch: str, note: OpenBatch) -> bool:
        """Whether the results of a batch are those of a note's requests."""

        async def first(response: aiohttp.ClientResponse) -> bool:
            line = b""
            while b"\n" not in line and (chunk := await response.content.readany()):
                line += chunk
                if len(line) > MOST_LINE_BYTES:
                    break
            response.close()
            return from_json(line.split(b"\n")[0])["custom_id"] in note.keys

        return await self.http.call("GET", _results_of(batch), first)

    def _result(self, result: Any, tools: Tools) -> LineResult:
        kind = result["type"]
        if kind in _NOT_DONE:
            return None
        if kind == "errored":
            return self._failure(result["error"])
        if kind != "succeeded":
            raise ValueError(f"unknown type of result: {kind!r:.100}")
        # The original request may belong to another process; this much of it is enough to read the answer.
        asked = Request(self._spec.endpoint, self._spec.model, (), {"extra_body": self._spec.extra_body}, tools=tools)
        try:
            with redacted(self.http.secrets):
                answer = messages_api.completion(result["message"], asked, 0.0)
                if holds(answer.words, self.http.secrets):
                    raise RequestError("the answer contains the API key, so it is discarded")
                return answer
        except ModelError as error_in_it:
            return error_in_it

    def _failure(self, error: Any) -> ModelError:
        """An error in place of a message; errors are not billed."""
        inside = error.get("error") or error
        failed = self.http.failure(status_of(inside), json.dumps({"error": inside}), {})
        if isinstance(failed, TransientError):
            failed.billed = False
        return failed


def _results_of(batch: str) -> str:
    # The server names an address as well (`results_url`). It is this one, and a request to another host would give it the key.
    return f"{_PATH}/{batch}/results"


def _listed(batch: Any) -> _Listed:
    counts = batch.get("request_counts") or {}
    return _Listed(
        id=identifier(batch["id"]),
        requests=sum(int(counts.get(name) or 0) for name in _COUNTS),
        created=datetime.fromisoformat(batch["created_at"]).timestamp(),
        ended=batch["processing_status"] == "ended",
        gone=bool(batch.get("archived_at")),
    )


def _state(batch: Any) -> BatchState:
    known = _listed(batch)
    return BatchState(ended=known.ended, paths=(_results_of(known.id),), expected=known.requests, gone=known.gone)
