"""A server that loads adapters while it runs, for the engine that started it and for nobody else."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from engine.llm.types.serve_spec import ServeSpec
from engine.llm.weights import ModelWeights
from engine.serving.adapters import PERMISSION
from engine.serving.command_line import Listen
from engine.serving.health import ask
from engine.serving.launch import AdapterRoom, Launch, Served, Status
from engine.serving.replica import Replica
from engine.serving.vllm_path.engine_adapter_guard import HEADER, TOKEN, OnlyTheEngine
from registry import Registry
from tests.engine.serving.test_replica import until
from tests.vllm_stand_in import environment

Start = Callable[..., Replica]
CHAT = {"messages": [{"role": "user", "content": "q"}]}


def adapter(name: str, **config: Any) -> Served:
    """An adapter in a folder, on a base in a folder."""
    folders = Path(name).absolute(), Path("base").absolute()
    for each in folders:
        each.mkdir(exist_ok=True)
    (folders[0] / "adapter_config.json").write_text(json.dumps({"r": 8, **config}))
    (folders[0] / "says").write_text(f"I am {name}")
    base = ModelWeights(source="hub", location=str(folders[1]), identity="base")  # used as it is
    return Served(model=name, name=f"step:{name}", weights=ModelWeights(source="hub", location=name, identity=name, base=base))


@pytest.fixture
def start(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    monkeypatch.setenv("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "1")  # of the user's own servers
    environment(workdir / "env")
    (workdir / "notes").mkdir()
    started: list[Replica] = []

    def make(*models: Served, room: AdapterRoom | None = None, **env: str) -> Replica:
        spec = ServeSpec(engine="vllm", python="env", env={"STAND_IN": str(workdir / "notes"), **env})
        launch = Launch(models=models, serve=spec, number=1, log=workdir / "1.log", room=room)
        started.append(Replica(launch, "127.0.0.1", Registry(workdir / "registry").store))
        return started[-1]

    yield make
    for each in started:
        each.stop()


def ready(replica: Replica) -> tuple[Listen, Status]:
    status = until(replica, lambda status: status.state == "ready")
    assert status.address is not None
    return Listen("127.0.0.1", int(status.address.url.split(":")[2].split("/")[0])), status


def says(listen: Listen, model: str) -> tuple[int, str]:
    status, body = ask(listen, "/v1/chat/completions", {"model": model, **CHAT})
    return status, json.loads(body)["choices"][0]["message"]["content"] if status == 200 else ""


def process_of() -> psutil.Process:
    return psutil.Process(last_process())


def last_process() -> int:
    return int((Path("notes") / "starts").read_text().splitlines()[-1].split()[0])


def test_a_running_server_takes_in_an_adapter_and_has_it_again_after_its_death(start: Start) -> None:
    one, two = adapter("one"), adapter("two")
    replica = start(one, room=AdapterRoom(adapters=2, rank=8))
    listen, status = ready(replica)
    assert status.loaded == ("step:one",)
    process = process_of()
    replica.change((one, two))
    until(replica, lambda status: "step:two" in status.loaded)
    assert (says(listen, "step:one"), says(listen, "step:two")) == ((200, "I am one: q"), (200, "I am two: q"))
    assert process.is_running()
    process.kill()
    again = until(replica, lambda status: status.deaths == 1 and status.state == "ready")
    assert again.loaded == ("step:one", "step:two")
    assert says(listen, "step:two") == (200, "I am two: q")


def test_refused_adapters_are_reported_and_the_others_are_served(start: Start) -> None:
    replica = start(adapter("one"), adapter("none", r="x"), room=AdapterRoom(adapters=2))
    listen, status = ready(replica)
    assert status.loaded == ("step:one",)
    assert "adapter_config.json" in status.refused["step:none"]
    replica.change((adapter("one"), adapter("large", r=99)))
    status = until(replica, lambda status: "step:large" in status.refused)
    assert status.refused["step:large"] == (
        "status 500: Call to add_lora method failed: LoRA rank 99 is greater than max_lora_rank 8."
    )
    assert says(listen, "step:one") == (200, "I am one: q")
    assert says(listen, "step:large")[0] == 404


def test_nobody_else_can_change_it(start: Start) -> None:
    listen, _ = ready(start(adapter("one"), room=AdapterRoom(adapters=2)))
    wanted = {"lora_name": "step:one", "lora_path": str(Path("one").absolute()), "load_inplace": True}
    for path in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/adapters", "/v1/load_lora_adapter/"):
        assert ask(listen, path, wanted)[0] == 403
        assert ask(listen, path, wanted, headers={HEADER: "guess"})[0] == 403
    assert says(listen, "step:one") == (200, "I am one: q")
    assert ask(listen, "/v1/models")[0] == 200
    assert TOKEN not in os.environ
    token = process_of().environ()[TOKEN]
    assert len(token) >= 32
    assert token not in " ".join(process_of().cmdline()) + Path("1.log").read_text()


def test_only_a_server_with_room_has_the_permission(start: Start) -> None:
    listen, _ = ready(start(adapter("one")))
    assert PERMISSION not in process_of().environ()
    assert ask(listen, "/v1/load_lora_adapter", {})[0] == 404


def test_a_server_that_does_not_run_the_guard_is_not_used(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.serving.command_line.MIDDLEWARE", "tests.vllm_stand_in.passes")
    replica = start(adapter("one"), room=AdapterRoom(adapters=2), PYTHONPATH=str(Path(__file__).parents[3]))
    why = until(replica, lambda status: status.state == "failed").why
    assert "anyone who can reach its port could load adapters into it: POST /v1/load_lora_adapter" in why
    assert not psutil.pid_exists(last_process())


@pytest.mark.parametrize(
    ("scope", "passes"),
    [
        ({"type": "lifespan"}, True),
        ({"type": "http", "method": "GET", "path": "/v1/load_lora_adapter"}, True),
        ({"type": "http", "method": "POST", "path": "/v1/chat/completions"}, True),
        ({"type": "http", "method": "POST", "path": "/v1/chat/completions/../load_lora_adapter"}, False),
        ({"type": "http", "method": "POST", "path": "/invocations"}, False),
        ({"type": "http", "method": "DELETE", "path": "/adapters/one"}, False),
        ({"type": "http", "method": "POST", "path": "/adapters", "headers": [(HEADER.encode(), b"secret")]}, True),
        ({"type": "http", "method": "POST", "path": "/adapters", "headers": [(HEADER.encode(), b"secre\xff")]}, False),
        ({"type": "http", "method": "POST", "path": "/adapters", "headers": [(HEADER.encode(), b"secret")] * 2}, False),
        ({"type": "websocket", "path": "/v1/realtime"}, False),
    ],
    ids=str,
)
def test_the_guard(scope: dict[str, Any], passes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN, "secret")
    passed, sent = list[Any](), list[Any]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        passed.append(scope)

    async def receive() -> Any:
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(OnlyTheEngine(app)({"headers": [], **scope}, receive, send))
    assert bool(passed) == passes
    assert bool(sent) != passes
