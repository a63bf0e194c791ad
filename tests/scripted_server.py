"""A small OpenAI-compatible server as a program, for tests of `serve`: it starts quickly and fails on demand.

`python scripted_server.py --port P [--calls FILE] ...`. It imports only the standard library. The handler and what answers consist of
are also used by tests/vllm_stand_in.py.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

USAGE = {"prompt_tokens": 10, "completion_tokens": 5}


class JsonHandler(BaseHTTPRequestHandler):
    """Reads and answers JSON, on connections that stay open."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""

    def body(self) -> Any:
        """The request's document; `{}` if it has none."""
        return json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")

    def answer(self, status: int, document: Any) -> None:
        """Answer the request."""
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def answer_unknown_model(self, name: str) -> None:
        """Refuse a request that names a model that the server does not have."""
        self.answer(404, {"error": {"message": f"The model `{name}` does not exist."}})


def choice(text: str) -> dict[str, Any]:
    """A whole answer."""
    return {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}


def note(file: Path, line: str) -> None:
    """Append a line that begins with the id of this process."""
    with file.open("a") as out:
        out.write(f"{os.getpid()} {line}\n")


def serve(host: str, port: int, handler: type[JsonHandler]) -> None:
    """Serve until killed."""
    ThreadingHTTPServer.daemon_threads = True
    ThreadingHTTPServer((host, port), handler).serve_forever()


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", default="test-model")
    parser.add_argument("--calls", type=Path, help="gets a line for each answer: the process, the prompt")
    parser.add_argument("--pids", type=Path, help="gets the ids of the server and of its child, which leaves its session")
    parser.add_argument("--says", default="You said: ")
    parser.add_argument("--seconds", type=float, default=0.0, help="how long an answer takes")
    parser.add_argument("--together", type=int, default=1, help="answers once the file of --pids names this many servers")
    parser.add_argument("--never-ready", action="store_true")
    parser.add_argument("--broken", action="store_true", help="ends with status 3")
    parser.add_argument("--die-once", type=Path, help="ends in the middle of a call unless this file exists, and creates it")
    parser.add_argument("--hang-once", type=Path, help="stops answering at a call unless this file exists, and creates it")
    parser.add_argument("--hang-after", type=float, help="seconds after which it stops answering")
    parser.add_argument("--stubborn", action="store_true", help="does not end when it is asked to")
    given = parser.parse_args()
    print(f"loading {given.model}", flush=True)
    if given.broken:
        print("RuntimeError: no kernel image is available", file=sys.stderr)
        sys.exit(3)
    if given.stubborn:
        import signal

        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if given.pids:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
        note(given.pids, str(child.pid))
    lock, hung = threading.Lock(), threading.Event()
    if given.hang_after:
        threading.Timer(given.hang_after, hung.set).start()

    class Handler(JsonHandler):
        def do_GET(self) -> None:
            if hung.is_set():
                time.sleep(600)
            if given.never_ready:
                self.answer(503, {"error": {"message": "loading"}})
            elif self.path == "/v1/models":
                self.answer(200, {"data": [{"id": each} for each in given.model.split(",")]})
            else:
                self.answer(200 if self.path == "/health" else 404, {})

        def do_POST(self) -> None:
            body = self.body()
            prompt = body["messages"][-1]["content"]
            if body["model"] not in given.model.split(","):
                self.answer_unknown_model(body["model"])
                return
            if not isinstance(prompt, str):
                self.answer(400, {"error": {"message": f"{given.model} is not a multimodal model"}})
                return
            with lock:
                if given.die_once and not given.die_once.exists():
                    given.die_once.touch()
                    print("CUDA error: an illegal memory access was encountered", flush=True)
                    os._exit(134)
            if given.hang_once and not given.hang_once.exists():
                given.hang_once.touch()
                hung.set()
            if hung.is_set():
                time.sleep(600)
            while given.pids and len(given.pids.read_text().splitlines()) < given.together:
                time.sleep(0.02)
            time.sleep(given.seconds)
            choices = [choice(given.says + prompt) for _ in range(body.get("n", 1))]
            if body.get("logprobs"):
                for each in choices:
                    each["logprobs"] = {"content": [{"token": "a", "logprob": -0.5, "top_logprobs": []}]}
            with lock:  # the server never dies between a note and its answer, so `calls` counts the answers that were sent
                if given.calls:
                    note(given.calls, prompt)
                self.answer(200, {"choices": choices, "usage": USAGE})

    serve(given.host, given.port, Handler)


if __name__ == "__main__":
    main()
