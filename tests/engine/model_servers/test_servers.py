"""Which servers run when: a step that has work keeps its servers, a training gets the GPUs, and lost servers are replaced.

The test simulates the cluster, because this machine has no GPUs."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from engine.errors import StepError
from engine.execution.executor import Server, WorkerRequest
from engine.execution.jobs import request_of
from engine.llm.types.model_spec import Address
from engine.llm.weights import ModelWeights
from engine.model_servers.servers import Servers
from engine.pipeline.check import check
from engine.pipeline.graph import Step
from engine.pipeline.served_models import server_notes
from engine.serving.launch import AdapterRoom, Launch, Served, Status

PIPELINE = """
name: demo
models:
  teacher: &served {provider: openai, model: m, serve: {command: [serve, "{port}"], replicas: 2, num_gpus: 1}}
  judge: *served
  student: {provider: transformers, model: smollm2-135m-instruct}
datasets:
  words: {type: Word, path: words.jsonl}
  rows: {type: SFTExample, path: rows.jsonl}
steps:
  first: {op: ask_once, in: words}
  sft: {op: train_sft, in: rows}
  second: {op: ask_once, in: words, models: {teacher: judge}}
  third: {op: ask_once, in: words}
"""


class Played:
    """A server that does what the test says."""

    gpus = 1.0

    def __init__(self, cluster: Cluster, launch: Launch) -> None:
        self.cluster, self.launch = cluster, launch
        self.status = Status()
        self.ended = False

    def look(self) -> Status:
        return self.status

    @property
    def models(self) -> list[str]:
        return [each.model for each in self.launch.models]

    def change(self, models: tuple[Served, ...]) -> None:
        self.launch = self.launch.model_copy(update={"models": models})
        self.cluster.log.append(f"change to {' '.join(self.models)}")

    def stop(self) -> None:
        self.cluster.log.append(f"stop {self.models[0]}")

    def has_stopped(self) -> bool:
        if self.ended and self in self.cluster.servers:
            self.cluster.servers.remove(self)
        return self.ended

    def kill(self) -> None:
        self.ended = True
        self.has_stopped()


class Cluster:
    """Two GPUs."""

    lacks_room = False
    fits_a_worker = True
    places = 2

    def __init__(self) -> None:
        self.servers: list[Played] = []
        self.log: list[str] = []
        self.told: dict[str, int] = {}
        self.names: dict[str, set[str]] = {}

    def check_room(self, servers: Sequence[Launch], request: WorkerRequest) -> None:
        if len(servers) > 2:
            raise StepError("too many")

    def start_servers(self, servers: Sequence[Launch], request: WorkerRequest | None) -> list[Server] | None:
        if len(self.servers) + len(servers) > self.places or (request is not None and not self.fits_a_worker):
            return None
        started = [Played(self, each) for each in servers]
        self.servers += started
        self.log += [f"start {each.models[0].model}" for each in servers]
        return [*started]

    def serve(self, model: str, addresses: Sequence[Address]) -> None:
        self.told[model] = len(addresses)
        self.names[model] = {address.model for address in addresses}

    def ready(self) -> None:
        for number, each in enumerate(self.servers):
            each.status = Status(state="ready", address=Address(f"http://127.0.0.1:{number}/v1", "m"))

    def end(self) -> None:
        for each in self.servers:
            each.ended = True


class Run:
    def __init__(self, pipeline: str = PIPELINE) -> None:
        Path("words.jsonl").write_text('{"text": "a"}\n')
        Path("rows.jsonl").write_text(
            '{"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "a"}]}\n'
        )
        Path("p.yaml").write_text(pipeline)
        self.steps = check(Path("p.yaml")).steps
        self.cluster = Cluster()
        self.said: list[str] = []
        self.servers = Servers(self.cluster, lambda: None, Path("runs"), "1", self.said.append)  # type: ignore[arg-type]
        self.servers.expect([*self.steps.values()])

    def trains(self, name: str) -> None:
        """A step makes its adapter."""
        self.servers.done(name)
        found = ModelWeights(source="registry", location=f"demo/{name}@1", identity=name, base=EMBEDDED)
        for user, step in self.steps.items():
            models = {
                role: replace(each, weights=found) if each.made_by and each.made_by.name == name else each
                for role, each in step.models.items()
            }
            self.steps[user] = replace(step, models=models)

    def asks(self, name: str) -> bool:
        step: Step = self.steps[name]
        return self.servers.are_ready(step, request_of(step))


@pytest.fixture
def run(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr("engine.model_servers.servers._ASKED_SECONDS", 0.0)
    return Run()


def test_steps_wait_for_a_server_and_take_turns_on_the_gpus(run: Run) -> None:
    assert not run.asks("first")
    assert run.cluster.log == ["start teacher", "start teacher"]
    run.cluster.servers[0].status = Status(state="ready", address=Address("http://127.0.0.1:1/v1", "m"))
    run.servers.watch(set())
    assert run.asks("first"), "one of two is enough to begin"
    assert run.cluster.told == {"teacher": 1}

    run.servers.watch({"first"})
    assert not run.asks("second")
    assert "stop teacher" not in run.cluster.log, "its step has work"
    run.servers.watch(set())
    assert not run.asks("second")
    assert run.cluster.log[2:] == ["stop teacher", "stop teacher"], "its step has none"
    assert run.cluster.told == {"teacher": 0}
    assert not run.asks("second"), "they have not ended yet"
    run.cluster.end()
    run.servers.watch(set())
    assert not run.asks("second")
    assert run.cluster.log[4:] == ["start judge", "start judge"]


def test_a_training_has_the_gpus_for_itself(run: Run) -> None:
    run.asks("first")
    run.cluster.ready()
    run.servers.watch({"first"})
    assert not run.asks("sft"), "a step has work for the servers"
    run.servers.done("first")
    run.servers.watch(set())
    assert not run.asks("sft")
    assert run.cluster.log[2:] == ["stop teacher", "stop teacher"]
    run.cluster.end()
    run.servers.watch(set())
    assert run.asks("sft")
    assert not run.asks("third"), "the training uses the GPUs"
    assert len(run.cluster.log) == 4
    run.servers.done("sft")
    assert not run.asks("third")
    assert run.cluster.log[4:] == ["start teacher", "start teacher"]


def test_servers_stop_when_no_later_step_needs_them(run: Run) -> None:
    run.asks("first")
    run.cluster.ready()
    run.servers.watch({"first"})
    run.servers.done("first")
    assert run.cluster.log[2:] == []
    run.servers.done("third")
    assert run.cluster.log[2:] == ["stop teacher", "stop teacher"]


def test_a_lost_server_is_given_up_if_no_node_has_room(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise StepError("no node has a GPU")

    run.asks("first")
    run.cluster.ready()
    run.servers.watch({"first"})
    monkeypatch.setattr(run.cluster, "start_servers", refused)
    run.cluster.servers[0].status = Status(state="lost", why="the node has died")
    run.servers.watch({"first"})
    assert run.asks("first")
    assert run.cluster.told == {"teacher": 1}
    assert "server 1 of 2 of model 'teacher' cannot be used: no node has a GPU" in run.said


def test_a_lost_server_is_replaced_where_only_it_fits_because_its_step_has_workers(run: Run) -> None:
    run.asks("first")
    run.cluster.ready()
    run.servers.watch({"first"})
    run.cluster.fits_a_worker = False
    run.cluster.servers[0].status = Status(state="lost", why="the process has died")
    run.servers.watch({"first"})
    assert run.cluster.log[2:] == ["start teacher"]


def test_a_lost_server_is_replaced_and_a_failed_one_is_given_up(run: Run) -> None:
    run.asks("first")
    run.cluster.ready()
    run.servers.watch({"first"})
    run.cluster.servers[0].status = Status(state="lost", why="the node has died")
    run.servers.watch({"first"})
    assert run.cluster.log[2:] == ["start teacher"]
    assert run.cluster.told == {"teacher": 1}
    run.cluster.ready()
    run.cluster.servers[0].status = Status(state="failed", why="out of memory")
    run.servers.watch({"first"})
    assert run.asks("first")
    assert "server 2 of 2 of model 'teacher' cannot be used: out of memory" in run.said
    run.cluster.servers[1].status = Status(state="failed", why="out of memory")
    run.servers.watch({"first"})
    with pytest.raises(StepError, match="server 1 of 2 of model 'teacher' cannot be used: out of memory"):
        run.servers.check(run.steps["first"])


HERE, THERE = (Address(f"http://127.0.0.1:{port}/v1", "base-terse") for port in (1, 2))

ON_ONE_BASE = """
name: demo
models:
  plain: &on {provider: openai, model: base, serve: {engine: vllm, python: /opt/vllm, num_gpus: 1}}
  terse: {<<: *on, model: "base-terse", temperature: 0}
  polite: {<<: *on, model: "base-polite"}
  warm: {<<: *on, temperature: 1.5}
  larger: {<<: *on, model: "base-larger", serve: {engine: vllm, python: /opt/vllm, num_gpus: 1, args: {max-model-len: 9}}}
datasets:
  words: {type: Word, path: words.jsonl}
steps:
  first: {op: ask_once, in: words, models: {teacher: terse}}
  second: {op: ask_once, in: words, models: {teacher: polite}}
  third: {op: ask_once, in: words, models: {teacher: plain}}
  fourth: {op: ask_once, in: words, models: {teacher: larger}}
  fifth: {op: ask_once, in: words, models: {teacher: warm}}
"""
MISSING = f"serve.python: there is no file /opt/vllm on {socket.gethostname()}"
BASE = ModelWeights(source="hub", location="base", identity="base")


def on_one_base(run: Run, *trained_later: str) -> None:
    """Make all models except `plain` adapters on `plain`; the weights of some are not known yet."""
    for name, step in run.steps.items():
        [(role, model)] = step.models.items()
        kind = model.spec.model
        weights = ModelWeights(source="registry", location=kind, identity=kind, base=BASE)
        found = None if name in trained_later else BASE if kind == "base" else weights
        run.steps[name] = replace(step, models={role: replace(model, weights=found)})
    run.servers.expect([*run.steps.values()])


@pytest.fixture
def shared(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr("engine.model_servers.servers._ASKED_SECONDS", 0.0)
    return Run(ON_ONE_BASE)


def test_the_plan_names_a_server_once_for_all_models_that_share_it(shared: Run) -> None:
    on_one_base(shared, "second")
    assert server_notes(shared.steps.values()) == {
        "first": ["starts the server of model terse, with 1 GPU: vllm", MISSING],
        "second": ["starts the server of model polite, with 1 GPU: vllm", MISSING],
        "third": ["starts the server of models plain, warm, with 1 GPU: vllm", MISSING],
        "fourth": ["starts the server of model larger, with 1 GPU: vllm --max-model-len 9", MISSING],
    }
    on_one_base(shared)
    assert server_notes(shared.steps.values())["first"] == [
        "starts the server of models terse, polite, with 1 GPU: vllm",
        MISSING,
    ]


def test_all_servers_of_a_run_are_checked_before_any_step_begins(run: Run) -> None:
    asked: list[str] = []
    run.cluster.check_room = lambda servers, request: asked.extend(  # type: ignore[method-assign]
        each.model for server in servers for each in server.models
    )
    run.servers.are_ready(run.steps["sft"], request_of(run.steps["sft"]))
    assert sorted({*asked}) == ["judge", "teacher"]
    assert not run.cluster.servers


def test_adapters_on_one_base_share_a_server_until_none_of_them_is_needed(shared: Run) -> None:
    on_one_base(shared)
    assert not shared.asks("first")
    [server] = shared.cluster.servers
    assert server.models == ["terse", "polite"]
    assert "starting the server of models 'terse', 'polite'" in shared.said[0]
    server.status = Status(state="ready", address=HERE, loaded=("base-terse", "base-polite"))
    shared.servers.watch({"first"})
    assert shared.asks("first")
    assert shared.asks("second")
    assert shared.cluster.names == {"terse": {"base-terse"}, "polite": {"base-polite"}}
    assert {name: each.model for name, each in shared.servers.addresses.items()} == {
        "terse": "base-terse",
        "polite": "base-polite",
    }
    shared.asks("fourth")
    assert shared.cluster.log == ["start terse", "start larger"], "other settings"
    shared.servers.done("first")
    assert shared.cluster.log[2:] == []
    shared.servers.done("second")
    assert shared.cluster.log[2:] == ["stop terse"]
    assert shared.cluster.told == {"terse": 0, "polite": 0}


def test_a_base_model_shares_no_server_with_adapters_but_with_itself(shared: Run) -> None:
    on_one_base(shared)
    shared.asks("third")
    [server] = shared.cluster.servers
    assert server.models == ["plain", "warm"]


def test_an_adapter_that_was_not_expected_gets_its_own_server(shared: Run) -> None:
    """The server was started without permission to load any."""
    on_one_base(shared, "second")
    shared.asks("first")
    assert shared.cluster.servers[0].models == ["terse"]
    on_one_base(shared)
    shared.asks("second")
    assert shared.cluster.log == ["start terse", "start polite"]


def test_a_shared_server_that_fails_fails_all_its_models(shared: Run) -> None:
    on_one_base(shared)
    shared.asks("first")
    shared.cluster.servers[0].status = Status(state="failed", why="out of memory")
    shared.servers.watch(set())
    for name in ("first", "second"):
        with pytest.raises(StepError, match="server of models 'terse', 'polite' cannot be used: out of memory"):
            shared.servers.check(shared.steps[name])


def test_models_that_requests_cannot_tell_apart_share_no_server(shared: Run) -> None:
    on_one_base(shared)
    step = shared.steps["second"]
    model = step.models["teacher"]
    renamed = replace(model, spec=model.spec.model_copy(update={"model": "base-terse"}))
    shared.steps["second"] = replace(step, models={"teacher": renamed})
    shared.servers.expect([*shared.steps.values()])
    shared.asks("first")
    assert shared.cluster.servers[0].models == ["terse"]


def test_the_adapters_that_a_server_refuses_at_its_start_are_served_elsewhere_and_the_others_by_it(shared: Run) -> None:
    on_one_base(shared)
    shared.asks("first")
    [server] = shared.cluster.servers
    server.status = Status(state="ready", address=HERE, loaded=("base-polite",), refused={"base-terse": "it has no weights"})
    shared.servers.watch(set())
    assert (
        "the server of models 'terse', 'polite' has not loaded model 'terse': it has no weights; it gets its own servers"
        in (shared.said)
    )
    assert shared.asks("second")
    assert shared.cluster.names == {"polite": {"base-polite"}}
    assert not shared.asks("first")
    alone = shared.cluster.servers[1]
    assert (alone.models, alone.launch.room) == (["terse"], None)
    alone.status = Status(state="failed", why="it did not start")
    shared.servers.watch(set())
    with pytest.raises(StepError, match="the server of model 'terse' cannot be used: it did not start"):
        shared.servers.check(shared.steps["first"])
    assert shared.asks("second")


TRAINED_LATER = """
name: demo
models:
  student: {provider: transformers, model: smollm2-135m-instruct}
  a: &on {provider: openai, model: "step:sft_a", serve: {engine: vllm, python: /opt/vllm, replicas: 2}}
  b: {<<: *on, model: "step:sft_b"}
  other: {<<: *on, model: "step:sft_c"}
datasets:
  words: {type: Word, path: words.jsonl}
  rows: {type: SFTExample, path: rows.jsonl}
steps:
  sft_a: {op: train_sft, in: rows, with: {lora: {r: 4}}}
  ask_a: {op: ask_once, in: words, models: {teacher: a}}
  sft_b: {op: train_sft, in: rows, with: {lora: {r: 20}}}
  ask_b: {op: ask_once, in: words, models: {teacher: b}}
  sft_c: {op: train_sft, in: rows, with: {lora: null}}
  ask_c: {op: ask_once, in: words, models: {teacher: other}}
"""
EMBEDDED = ModelWeights(source="embedded", location="smollm2-135m-instruct", identity="embedded")


@pytest.fixture
def later(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run whose model `a` is trained."""
    monkeypatch.setattr("engine.model_servers.servers._ASKED_SECONDS", 0.0)
    monkeypatch.setattr(Played, "gpus", 0.0)
    run = Run(TRAINED_LATER)
    run.trains("sft_a")
    return run


def test_an_adapter_that_is_trained_later_is_loaded_by_the_servers_that_run(later: Run) -> None:
    later.asks("ask_a")
    first, second = later.cluster.servers
    assert first.launch.room == AdapterRoom(adapters=2, rank=20)
    for each, here in ((first, HERE), (second, THERE)):
        each.status = Status(state="ready", address=here, loaded=("step:sft_a",))
    later.servers.watch({"ask_a"})
    later.servers.done("ask_a")
    assert later.asks("sft_b")
    later.trains("sft_b")
    assert later.cluster.log == ["start a", "start a"], "they wait for it"

    assert not later.asks("ask_b")
    assert later.cluster.log[2:] == ["change to a b"] * 2
    assert "ask_b: model 'b' is loaded into the servers of model 'a'" in later.said
    first.status = first.status.model_copy(update={"loaded": ("step:sft_a", "step:sft_b")})
    later.servers.watch(set())
    assert not later.asks("ask_b"), "one of two does not know it"
    assert "b" not in later.cluster.told
    second.status = second.status.model_copy(update={"loaded": ("step:sft_a", "step:sft_b")})
    later.servers.watch(set())
    assert later.asks("ask_b")
    assert (later.cluster.told["b"], later.cluster.names["b"]) == (2, {"step:sft_b"})

    second.status = Status(state="starting", deaths=1, why="signal 9 ended it")
    later.servers.watch({"ask_b"})
    assert later.cluster.told["b"] == 1
    second.status = Status(state="lost", why="the node has died")
    later.servers.watch({"ask_b"})
    assert later.cluster.servers[-1].models == ["a", "b"], "a new one has it from the start"
    later.servers.done("ask_b")
    assert later.cluster.log[-2:] == ["stop a", "stop a"]


def test_an_adapter_that_a_server_refuses_gets_its_own_servers(later: Run) -> None:
    later.asks("ask_a")
    for each, here in zip(later.cluster.servers, (HERE, THERE), strict=True):
        each.status = Status(state="ready", address=here, loaded=("step:sft_a",))
    later.servers.watch({"ask_a"})
    later.trains("sft_b")
    later.asks("ask_b")
    why = {"step:sft_b": "status 500: LoRA rank 64 is greater than max_lora_rank 32"}
    later.cluster.servers[0].status = later.cluster.servers[0].status.model_copy(update={"refused": why})
    later.servers.watch({"ask_a"})
    assert later.said[-1] == (
        "server 1 of 2 of models 'a', 'b' has not loaded model 'b': status 500: LoRA rank 64 is greater than max_lora_rank 32; "
        "it gets its own servers"
    )
    assert later.cluster.log[-2:] == ["change to a"] * 2
    later.cluster.places = 4
    assert not later.asks("ask_b")
    assert [(each.models, each.launch.room) for each in later.cluster.servers[2:]] == [(["b"], None)] * 2
    assert later.cluster.told == {"a": 2}


def test_an_adapter_that_no_restarted_server_loads_any_more_fails_its_steps(later: Run) -> None:
    later.asks("ask_a")
    first, second = later.cluster.servers
    for each, here in ((first, HERE), (second, THERE)):
        each.status = Status(state="ready", address=here, loaded=("step:sft_a",))
    later.servers.watch({"ask_a"})
    refused = Status(state="ready", address=HERE, deaths=1, refused={"step:sft_a": "no such file"})
    first.status = refused
    later.servers.watch({"ask_a"})
    later.servers.watch({"ask_a"})
    assert later.cluster.told == {"a": 1}
    assert later.said.count("server 1 of 2 of model 'a' has not loaded model 'a': no such file") == 1
    second.status = refused
    later.servers.watch({"ask_a"})
    assert later.cluster.told == {"a": 0}
    with pytest.raises(StepError, match="server 2 of 2 of model 'a' has not loaded model 'a': no such file"):
        later.servers.check(later.steps["ask_a"])


def test_servers_wait_only_for_adapters_that_they_can_take_in(later: Run) -> None:
    """They do not wait for the full weights of `sft_c`, nor after all adapters that could still come have failed."""
    later.asks("ask_a")
    later.servers.done("ask_a")
    later.servers.done("ask_b")
    assert later.cluster.log[2:] == ["stop a", "stop a"]


def test_a_server_of_one_adapter_has_no_permission(later: Run) -> None:
    later.servers.done("ask_b")
    later.asks("ask_a")
    assert later.cluster.servers[0].launch.room is None


def test_a_training_stops_no_server_that_holds_nothing(later: Run) -> None:
    later.asks("ask_a")
    later.servers.watch(set())
    assert later.asks("sft_b")
    later.servers.make_room("sft_b")
    assert later.cluster.log == ["start a", "start a"]
