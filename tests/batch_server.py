"""A small Batch API server for tests: real HTTP on loopback, input validated like OpenAI's, and faults on request."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from engine.llm.types.model_spec import ModelSpec
from engine.llm.types.requests import Request
from tests.chat_server import error
from tests.serving import Served

MOST_LINES = 50_000

Answer = Callable[[str, int], "str | tuple[int, dict[str, Any]] | None"]
"""From (last user message, how often it was answered before) to a text, a status and a body, or None: no line at all."""


@dataclass
class BatchServer(Served):
    """`with BatchServer() as server:` serves `server.base_url`.

    Attributes:
        answer: answers a prompt, given how often it has come before.
        hold: batches stay in progress for as long as this is set.
        ends: how the next batches end, in order of creation; all others are completed.
        done: the number of requests that an expired or cancelled batch has processed.
        faults: what happens to the next requests of the kinds `upload`, `create`, `list`, `look` and `content`, in order.
            An HTTP status: it is returned, and nothing is done. `reset`: the connection is cut. `hang`: no response ever comes.
            `after 500`, `after reset` and `after hang`: the same, but the work is done first. `half`: half of the content
            comes. `short`: a line is missing. None: no fault.
        key: the API key that requests must have.
        counts: requests by kind.
        asked: how often each prompt was in a batch that was created.
    """

    answer: Answer = lambda prompt, seen: f"You said: {prompt}"
    hold: bool = False
    ends: list[str] = field(default_factory=list)
    done: int = 0
    faults: dict[str, list[int | str | None]] = field(default_factory=dict)
    key: str = ""
    counts: Counter[str] = field(default_factory=Counter)
    asked: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    hung: threading.Event = field(default_factory=threading.Event)
    _ids: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    provider = "openai"

    def model(self, **more: Any) -> str:
        """The server as a model of a pipeline, in YAML's flow style."""
        return json.dumps(
            {"provider": self.provider, "model": "test-model", "base_url": self.base_url, "mode": "batch", **more}
        )

    def lines(self, batch: dict[str, Any]) -> list[dict[str, Any]]:
        """A batch's input."""
        return [json.loads(line) for line in self.files[batch["input_file_id"]].splitlines()]

    def add_noise(self, number: int) -> None:
        """Create batches of other users of the same project, newer than all others."""
        for _ in range(number):
            self._new_batch("file-of-others", "in_progress")

    def app(self) -> web.Application:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_post("/v1/files", self._kind("upload", self._upload))
        app.router.add_post("/v1/batches", self._kind("create", self._create))
        app.router.add_get("/v1/batches", self._kind("list", self._list))
        app.router.add_get("/v1/batches/{id}", self._kind("look", self._look))
        app.router.add_get("/v1/files/{id}/content", self._kind("content", self._content))
        return app

    def key_in(self, request: web.Request) -> str:
        """The key of a request."""
        return request.headers.get("Authorization", "").removeprefix("Bearer ")

    def _kind(
        self, kind: str, handle: Callable[[web.Request], Awaitable[web.Response]]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        """A handler with the key check, the request count and the faults in front of it."""

        async def handler(request: web.Request) -> web.Response:
            self.counts[kind] += 1
            given = self.key_in(request)
            if self.key and given != self.key:
                return error(401, f"Incorrect API key provided: {given}.")
            waiting = self.faults.get(kind) or [None]
            fault = str(waiting.pop(0) or "")
            done = not fault or fault.startswith(("after", "half", "short"))
            if not done:
                await request.read()
            response = await handle(request) if done else None
            what = fault.rsplit(maxsplit=1)[-1] if fault else ""
            if what == "reset" and request.transport:
                request.transport.abort()
            if what == "hang":
                self.hung.set()
                await self._stop.wait()
            if what.isdigit():
                return error(int(what), f"scripted, with the key {given}")
            if what == "half" and response is not None:
                assert isinstance(response.body, bytes)
                return web.Response(body=response.body[: len(response.body) // 2])
            if what == "short" and response is not None:
                assert isinstance(response.body, bytes)
                return web.Response(body=b"".join(response.body.splitlines(keepends=True)[1:]))
            return response or error(500, "cut")

        return handler

    async def _upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        file = form.get("file")
        if form.get("purpose") != "batch" or not isinstance(file, web.FileField):
            return error(400, "wants purpose=batch and a file")
        name = f"file-{next(self._ids)}"
        self.files[name] = file.file.read()
        return web.json_response({"id": name, "object": "file", "purpose": "batch", "bytes": len(self.files[name])})

    async def _create(self, request: web.Request) -> web.Response:
        asked = await request.json()
        if asked.keys() != {"input_file_id", "endpoint", "completion_window"} or asked["completion_window"] != "24h":
            return error(400, "wants input_file_id, endpoint and completion_window 24h")
        if asked["input_file_id"] not in self.files:
            return error(400, f"no such file: {asked['input_file_id']}")
        batch = self._new_batch(asked["input_file_id"], "validating")
        batch["end"] = self.ends.pop(0) if self.ends else "completed"
        if (problems := self._problems(asked["input_file_id"])) or batch["end"] == "failed":
            problems = problems or [{"code": "invalid", "line": 1, "message": f"scripted failure {self.key}".strip()}]
            batch |= {"status": "failed", "errors": {"object": "list", "data": problems}}
        else:
            for line in self.lines(batch):
                self.asked[line["body"]["messages"][-1]["content"]] += 1
        return web.json_response(batch)

    async def _list(self, request: web.Request) -> web.Response:
        newest = list(reversed(self.batches.values()))
        if after := request.query.get("after"):
            newest = newest[[batch["id"] for batch in newest].index(after) + 1 :]
        limit = int(request.query.get("limit", "20"))
        if not 1 <= limit <= 100:
            return error(400, "limit must be between 1 and 100")
        return web.json_response({"object": "list", "data": newest[:limit], "has_more": len(newest) > limit})

    async def _look(self, request: web.Request) -> web.Response:
        batch = self.batches.get(request.match_info["id"])
        if batch is None:
            return error(404, f"No batch found with id '{request.match_info['id']}'.")
        if batch["status"] in ("validating", "in_progress"):
            batch["status"] = "in_progress"
            if not self.hold:
                self._finish(batch)
        return web.json_response(batch)

    async def _content(self, request: web.Request) -> web.Response:
        if request.match_info["id"] not in self.files:
            return error(404, f"No such File object: {request.match_info['id']}")
        return web.Response(body=self.files[request.match_info["id"]])

    def _new_batch(self, file: str, status: str) -> dict[str, Any]:
        batch = {
            "id": f"batch_{next(self._ids)}",
            "object": "batch",
            "endpoint": "/v1/chat/completions",
            "input_file_id": file,
            "status": status,
            "created_at": int(time.time()),
            "output_file_id": None,
            "error_file_id": None,
            "errors": None,
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
        }
        self.batches[str(batch["id"])] = batch
        return batch

    def _problems(self, file: str) -> list[dict[str, Any]]:
        """The problems of an input file."""
        lines = self.files[file].splitlines()
        if not 0 < len(lines) <= MOST_LINES:
            return [{"code": "invalid", "line": None, "message": f"{len(lines)} requests are none, or too many"}]
        seen: set[str] = set()
        models: set[str] = set()
        problems = []
        for number, line in enumerate(lines, 1):
            try:
                asked = json.loads(line)
                name, body = asked["custom_id"], asked["body"]
                assert asked.keys() == {"custom_id", "method", "url", "body"}, "the keys"
                assert (asked["method"], asked["url"]) == ("POST", "/v1/chat/completions"), "the url"
                assert isinstance(name, str), "custom_id"
                assert 0 < len(name) <= 512, "custom_id's length"
                assert name not in seen, "custom_id twice"
                assert body["messages"][-1]["content"] is not None, "messages"
                assert not body.get("stream"), "stream"
                seen.add(name)
                models.add(body["model"])
                assert len(models) == 1, "more than one model"
            except (ValueError, KeyError, AssertionError) as wrong:
                problems.append({"code": "invalid_json_line", "line": number, "message": f"invalid: {wrong}"})
        return problems

    def _finish(self, batch: dict[str, Any]) -> None:
        """Answer the lines in random order, as far as the batch gets."""
        lines = self.lines(batch)
        random.Random(len(lines)).shuffle(lines)
        good: list[dict[str, Any]] = []
        bad: list[dict[str, Any]] = []
        end = batch["end"]
        reached = len(lines) if end == "completed" else self.done
        for place, line in enumerate(lines):
            told: dict[str, Any] = {"id": f"batch_req_{place}", "custom_id": line["custom_id"], "response": None, "error": None}
            if place >= reached:
                said = {"code": f"batch_{end}", "message": "This request could not be executed before the batch ended."}
                bad.append(told | {"error": said})
                continue
            prompt = line["body"]["messages"][-1]["content"]
            answer = self.answer(prompt, self.answered[prompt])
            self.answered[prompt] += 1
            if answer is None:
                continue
            status, body = (200, _completion(answer, line["body"])) if isinstance(answer, str) else answer
            told["response"] = {"status_code": status, "request_id": f"req_{place}", "body": body}
            (good if status == 200 else bad).append(told)
        good.append({"id": "x", "custom_id": "nobody", "response": {"status_code": 200, "body": {}}, "error": None})
        counts = {"total": len(lines), "completed": len(good) - 1, "failed": len([each for each in bad if each["response"]])}
        batch |= {"status": end, "request_counts": counts}
        for name, told_lines in (("output_file_id", good), ("error_file_id", bad)):
            if told_lines:
                batch[name] = f"file-{next(self._ids)}"
                self.files[batch[name]] = "".join(json.dumps(each) + "\n" for each in told_lines).encode()


def request(server: BatchServer, prompt: str, *, sample: int = 0, **sampling: Any) -> Request:
    """A request to a model on the server."""
    wanted = {"temperature": 0.0, "top_p": 1.0, "max_tokens": 8, "stop": (), "seed": None, **sampling}
    return Request(server.base_url, "test-model", ({"role": "user", "content": prompt},), wanted, sample)


def model_spec(server: BatchServer, **more: Any) -> ModelSpec:
    """A model on the server."""
    return ModelSpec.model_validate(json.loads(server.model(**{"retries": 2, "timeout": 10, **more})))


SCRIPT = """
import asyncio, json, os, signal, sys
from pathlib import Path
from engine.llm.batches import provider as batch
from engine.llm.journal.answers import Journal
from engine.llm.types.model_spec import ModelSpec
from tests.batch_server import request

class Server:
    base_url = sys.argv[2]

class Dying(Journal):
    async def note(self, name, value):
        if value is None and name.startswith("batch") and sys.argv[3] == "at the end":
            os.kill(os.getpid(), signal.SIGKILL)
        await super().note(name, value)
        if value and '"batch":null' in value and sys.argv[3] == "at the intent":
            os.kill(os.getpid(), signal.SIGKILL)

async def main():
    batch.LINGER_SECONDS = 0.03
    spec = ModelSpec(provider=sys.argv[4], model="test-model", base_url=Server.base_url, mode="batch")
    provider = batch.BatchProvider(spec, Dying(Path(sys.argv[1])))
    await asyncio.gather(*[provider.complete([request(Server, f"q{number}")]) for number in range(10)])

asyncio.run(main())
"""


def start(server: BatchServer, journal: Path, how: str = "") -> subprocess.Popen[bytes]:
    """A process that asks all prompts."""
    root = str(Path(__file__).parents[1])
    path = os.pathsep.join([root, os.environ["PYTHONPATH"]])
    arguments = [sys.executable, "-c", SCRIPT, str(journal), server.base_url, how, server.provider]
    return subprocess.Popen(arguments, env={**os.environ, "PYTHONPATH": path})


def killed(server: BatchServer, journal: Path, when: str) -> None:
    """Kill a process that asks all prompts, at a given moment."""
    kind, _, fault = when.partition(": ")
    if fault:
        server.faults[kind] = [fault]
    process = start(server, journal, when)
    if fault:
        assert server.hung.wait(30)
        process.kill()
    elif when == "while out":
        asyncio.run(looked(server, process))
        process.kill()
    assert process.wait(30) == -signal.SIGKILL


async def looked(server: BatchServer, process: subprocess.Popen[Any]) -> None:
    """Wait until a process asks whether its batch has ended."""
    await until(lambda: server.counts["look"] or process.poll() is not None)
    assert process.poll() is None


async def until(true: Callable[[], Any]) -> None:
    """Wait for something."""
    while not true():  # noqa: ASYNC110 - what is waited for is in another thread
        await asyncio.sleep(0.01)


def _completion(answer: str, asked: dict[str, Any]) -> dict[str, Any]:
    choice: dict[str, Any] = {"message": {"role": "assistant", "content": answer}, "finish_reason": "stop"}
    if asked.get("logprobs"):
        choice["logprobs"] = {"content": [{"token": answer, "logprob": -0.5, "top_logprobs": []}]}
    return {"choices": [choice], "usage": {"prompt_tokens": 10, "completion_tokens": 5}}
