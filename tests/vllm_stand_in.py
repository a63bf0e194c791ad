"""A program that replaces vLLM in tests of adapters: it has vLLM's options and endpoints for adapters, and refuses as vLLM does.

No weights are read. Messages and statuses are those of vLLM 0.32, which tests/e2e/test_vllm.py runs.

An adapter is a folder with `adapter_config.json`. The text of its file `says` begins the answers; a file `deadly` ends the server
that loads it. If STAND_IN names a folder, the server writes a line for each start (`starts`: the process, its options) and for each
answer (`calls`: the process, the model, the prompt). A file `die` in that folder ends the server in the middle of the next call. A file
`forget` makes it not know the model of the next call.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.scripted_server import USAGE, JsonHandler, choice, note, serve

PERMISSION = "VLLM_ALLOW_RUNTIME_LORA_UPDATING"


def environment(folder: Path) -> Path:
    """Make a folder that looks like an environment with vLLM."""
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    # Servers do not inherit PYTHONPATH.
    program = f"""#!{sys.executable}
import runpy, sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
runpy.run_module("tests.vllm_stand_in", run_name="__main__")
"""
    (folder / "bin" / "vllm").write_text(program)
    (folder / "bin" / "vllm").chmod(0o755)
    return folder


class Refused(Exception):
    """An adapter cannot be loaded: the status and the message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Models:
    """The models that the server has."""

    def __init__(self, own: list[str], rank: int) -> None:
        self.own = own
        self.rank = rank
        self.adapters: dict[str, Path] = {}

    def load(self, name: str, place: str) -> None:
        """Load an adapter."""
        if name in self.adapters:
            raise Refused(400, f"The lora adapter '{name}' has already been loaded.")
        folder = Path(place)
        if not (folder / "adapter_config.json").is_file():
            raise Refused(404, f"Loading lora {name} failed: No adapter found for {place}")
        if (folder / "deadly").exists():
            print("Segmentation fault", flush=True)
            os._exit(139)
        try:
            rank = json.loads((folder / "adapter_config.json").read_text())["r"]
        except (ValueError, LookupError) as error:
            raise Refused(500, f"Call to add_lora method failed: {error}") from error
        if rank > self.rank:
            raise Refused(500, f"Call to add_lora method failed: LoRA rank {rank} is greater than max_lora_rank {self.rank}.")
        self.adapters[name] = folder

    def says(self, name: str) -> str | None:
        """The beginning of a model's answers; None if the server does not have the model."""
        if name in self.adapters:
            return (self.adapters[name] / "says").read_text()
        return "base" if name in self.own else None


def guarded(classes: list[str], method: str, path: str, headers: list[tuple[bytes, bytes]]) -> int:
    """The status with which ASGI middleware refuses a request; 0 if the request passes."""
    sent: list[int] = [0]

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        """The server itself."""

    async def send(message: Any) -> None:
        sent[0] = message.get("status", sent[0])

    async def receive() -> Any:
        return {"type": "http.request"}

    app: Callable[..., Any] = inner
    for each in classes:
        module, name = each.rsplit(".", 1)
        app = getattr(importlib.import_module(module), name)(app)
    asyncio.run(app({"type": "http", "method": method, "path": path, "headers": headers}, receive, send))
    return sent[0]


def passes(app: Any) -> Any:
    """Middleware that refuses nothing."""
    return app


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("weights", type=Path)
    parser.add_argument("--served-model-name", nargs="+", default=[])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--enable-lora", action="store_true")
    parser.add_argument("--max-lora-rank", type=int, default=16)
    parser.add_argument("--max-loras", type=int, default=1)
    parser.add_argument("--max-cpu-loras", type=int)
    parser.add_argument("--lora-modules", nargs="*", default=[], type=json.loads)
    parser.add_argument("--middleware", action="append", default=[])
    given = parser.parse_args()
    notes = Path(os.environ["STAND_IN"]) if "STAND_IN" in os.environ else None
    lock = threading.Lock()
    if notes:
        note(notes / "starts", " ".join(sys.argv[1:]))
    models = Models(given.served_model_name or [str(given.weights)], given.max_lora_rank)
    try:
        for each in given.lora_modules:
            models.load(each["name"], each["path"])
    except Refused as error:
        sys.exit(f"ValueError: {error}")

    class Handler(JsonHandler):
        def is_guarded(self) -> bool:
            headers = [(name.lower().encode(), value.encode()) for name, value in self.headers.items()]
            status = guarded(given.middleware, self.command, self.path, headers)
            if status:
                self.answer(status, {"error": {"message": "refused by middleware", "code": status}})
            return bool(status)

        def do_GET(self) -> None:
            if not self.is_guarded():
                listed = [{"id": each} for each in (*models.own, *models.adapters)]
                self.answer(200 if self.path in ("/health", "/v1/models") else 404, {"data": listed})

        def do_POST(self) -> None:
            body = self.body()
            if self.is_guarded():
                return
            loads = given.enable_lora and os.environ.get(PERMISSION) == "True"
            if self.path == "/v1/load_lora_adapter" and loads:
                self.load(body)
            elif self.path == "/v1/chat/completions":
                self.chat(body)
            else:
                self.answer(404, {"detail": "Not Found"})

        def load(self, body: Any) -> None:
            try:
                if not {"lora_name", "lora_path"} <= body.keys():
                    raise Refused(400, "Field required")
                models.load(body["lora_name"], body["lora_path"])
            except Refused as error:
                self.answer(error.status, {"error": {"message": str(error), "code": error.status}})
            else:
                self.answer(200, f"Success: LoRA adapter '{body['lora_name']}' added successfully.")

        def chat(self, body: Any) -> None:
            says, prompt = models.says(body["model"]), body["messages"][-1]["content"]
            with lock:
                if notes and (notes / "forget").exists():
                    (notes / "forget").unlink()
                    says = None
            if says is None:
                self.answer_unknown_model(body["model"])
                return
            with lock:  # the server never dies between a note and its answer, so `calls` counts the answers that were sent
                if notes and (notes / "die").exists():
                    (notes / "die").unlink()
                    os._exit(134)
                if notes:
                    note(notes / "calls", f"{body['model']} {prompt}")
                self.answer(200, {"choices": [choice(f"{says}: {prompt}")], "usage": USAGE})

    serve(given.host, given.port, Handler)


if __name__ == "__main__":
    main()
