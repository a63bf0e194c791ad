"""Anthropic's Message Batches for tests: requests are checked with the official client's types, and so are our own replies."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from aiohttp import web
from anthropic.types.messages import MessageBatch, MessageBatchIndividualResponse
from anthropic.types.messages.batch_create_params import BatchCreateParams
from pydantic import TypeAdapter

from tests.batch_server import BatchServer
from tests.chat_server import message

_CREATE = TypeAdapter(BatchCreateParams)
_TYPES = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error", 500: "api_error"}
_COUNTS = ("processing", "succeeded", "errored", "canceled", "expired")


@dataclass
class MessageBatchServer(BatchServer):
    """See BatchServer. Batches end `completed`, `expired` or `canceled`; `faults` has no `upload`.

    Attributes:
        results_url: the address of results that the server names; None: the right one.
        more_lines: the first lines of every batch's results, unchanged.
    """

    results_url: str | None = None
    more_lines: tuple[str, ...] = ()

    provider = "anthropic"

    def lines(self, batch: dict[str, Any]) -> list[dict[str, Any]]:
        """A batch's requests."""
        found: list[dict[str, Any]] = json.loads(self.files[batch["id"]])["requests"]
        return found

    def add_noise(self, number: int, requests: int = 3) -> None:
        """Create batches of other users of the same workspace, newer than all others, whose contents cannot be seen yet."""
        for _ in range(number):
            self._new(requests)

    def app(self) -> web.Application:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_post("/v1/messages/batches", self._kind("create", self._create))
        app.router.add_get("/v1/messages/batches", self._kind("list", self._list))
        app.router.add_get("/v1/messages/batches/{id}", self._kind("look", self._look))
        app.router.add_get("/v1/messages/batches/{id}/results", self._kind("content", self._content))
        return app

    def key_in(self, request: web.Request) -> str:
        """The key of a request."""
        return request.headers.get("x-api-key", "")

    async def _create(self, request: web.Request) -> web.Response:
        body = await request.read()
        asked = json.loads(body)
        assert request.headers["anthropic-version"] == "2023-06-01"
        _CREATE.dump_python(_CREATE.validate_python(asked), warnings="error")
        names = [each["custom_id"] for each in asked["requests"]]
        assert asked.keys() == {"requests"}
        assert 0 < len(names) <= 100_000
        assert len(set(names)) == len(names)
        assert all(1 <= len(name) <= 64 and name.replace("-", "").replace("_", "").isalnum() for name in names)
        batch = self._new(len(names))
        self.files[batch["id"]] = body
        batch["end"] = self.ends.pop(0) if self.ends else "completed"
        for each in asked["requests"]:
            self.asked[each["params"]["messages"][-1]["content"]] += 1
        return self._shown(batch)

    async def _list(self, request: web.Request) -> web.Response:
        assert request.query.keys() <= {"limit", "after_id"}
        assert 1 <= int(request.query["limit"]) <= 1000
        newest = list(reversed(self.batches.values()))
        if after := request.query.get("after_id"):
            newest = newest[[batch["id"] for batch in newest].index(after) + 1 :]
        for batch in newest:
            self._go_on(batch)
        limit = int(request.query["limit"])
        page = [json.loads(self._shown(batch).text or "") for batch in newest[:limit]]
        ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {"first_id": None, "last_id": None}
        return web.json_response({"data": page, "has_more": len(newest) > limit, **ends})

    async def _look(self, request: web.Request) -> web.Response:
        batch = self.batches.get(request.match_info["id"])
        if batch is None:
            return _error(404, "no such batch")
        self._go_on(batch)
        return self._shown(batch)

    async def _content(self, request: web.Request) -> web.Response:
        batch = self.batches[request.match_info["id"]]
        return web.Response(body=batch["results"], content_type="application/x-jsonl")

    def _new(self, requests: int) -> dict[str, Any]:
        now = datetime.now(UTC)
        batch = {
            "id": f"msgbatch_{next(self._ids)}",
            "type": "message_batch",
            "processing_status": "in_progress",
            "request_counts": dict.fromkeys(_COUNTS, 0) | {"processing": requests},
            "created_at": now.isoformat(),
            "expires_at": (now + timedelta(days=1)).isoformat(),
            "ended_at": None,
            "archived_at": None,
            "cancel_initiated_at": None,
            "results_url": None,
        }
        self.batches[str(batch["id"])] = batch
        return batch

    def _shown(self, batch: dict[str, Any]) -> web.Response:
        shown = {name: value for name, value in batch.items() if name in MessageBatch.model_fields}
        MessageBatch.model_validate_json(json.dumps(shown), strict=True)
        return web.json_response(shown)

    def _go_on(self, batch: dict[str, Any]) -> None:
        if batch["processing_status"] == "in_progress" and not self.hold and batch["id"] in self.files:
            self._finish(batch)

    def _finish(self, batch: dict[str, Any]) -> None:
        """Answer the requests in random order, as far as the batch gets."""
        requests = self.lines(batch)
        random.Random(len(requests)).shuffle(requests)
        end = batch["end"]
        reached = len(requests) if end == "completed" else self.done
        counts = dict.fromkeys(_COUNTS, 0)
        lines = [*self.more_lines]
        for place, each in enumerate(requests):
            result = {"type": end} if place >= reached else self._result(each["params"])
            if result is None:
                counts["succeeded"] += 1
                continue
            counts[result["type"]] += 1
            line = json.dumps({"custom_id": each["custom_id"], "result": result})
            if result.get("message") != {"choices": []}:
                MessageBatchIndividualResponse.model_validate_json(line)
            lines.append(line)
        url = self.results_url or f"{self.base_url}/messages/batches/{batch['id']}/results"
        batch |= {"processing_status": "ended", "request_counts": counts, "results_url": url}
        batch |= {"ended_at": datetime.now(UTC).isoformat(), "results": "".join(f"{line}\n" for line in lines).encode()}

    def _result(self, asked: dict[str, Any]) -> dict[str, Any] | None:
        prompt = asked["messages"][-1]["content"]
        answer = self.answer(prompt, self.answered[prompt])
        self.answered[prompt] += 1
        if answer is None:
            return None
        if isinstance(answer, str):
            return {"type": "succeeded", "message": message({"type": "text", "text": answer})}
        status, body = answer
        if status == 200:
            return {"type": "succeeded", "message": body}
        inside = {"type": _TYPES[status], "message": body["error"]["message"]}
        return {"type": "errored", "error": {"type": "error", "error": inside, "request_id": "req_1"}}


def _error(status: int, words: str) -> web.Response:
    return web.json_response({"type": "error", "error": {"type": _TYPES[status], "message": words}}, status=status)
