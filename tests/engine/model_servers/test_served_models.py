"""Models whose servers the engine starts: their calls, what their keys contain, how they fail, and when they stop."""

from __future__ import annotations

import json
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console

from engine.cli.plan_view import print_plan
from engine.errors import PipelineError
from engine.pipeline.check import check
from engine.planning.plan import make_plan
from registry import Registry
from tests.chat_server import ChatServer
from tests.engine.model_servers.served import calls, command, pipeline, served
from tests.engine.run_pipelines import outcomes, run_text, words

pytestmark = pytest.mark.usefixtures("in_process")


def answered(model: dict[str, Any], registry: Registry) -> dict[str, str]:
    return outcomes(run_text(pipeline(teacher=model), registry))


def failed(model: dict[str, Any], registry: Registry) -> str:
    result = run_text(pipeline(teacher=model), registry)
    assert result.state == "failed"
    return str(result.error)


def is_alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_step_is_answered_by_a_server_that_the_engine_starts_and_stops(registry: Registry) -> None:
    words("one", "two")
    assert answered(served("--pids", "pids"), registry) == {"asked": "ran"}
    assert len(calls()) == 2
    assert not any(is_alive(int(pid)) for pid in Path("pids").read_text().split())
    [log] = (registry.root / "runs").glob("*.teacher-1.log")
    assert "loading test-model" in log.read_text()


def test_a_run_with_only_hits_starts_no_server(registry: Registry) -> None:
    words("one")
    answered(served(), registry)
    again = run_text(pipeline(teacher=served(replicas=3, start_timeout=1, num_cpus=1)), registry)
    assert outcomes(again) == {"asked": "hit"}
    assert len(calls()) == 1


def test_several_replicas_share_the_load(registry: Registry) -> None:
    words(*map(str, range(40)))
    model = served("--pids", "pids", "--together", "2", "--seconds", "0.2", replicas=2, limits={"concurrency": 4})
    assert answered(model, registry) == {"asked": "ran"}
    counts = [sum(pid == server for pid, _ in calls()) for server in {pid for pid, _ in calls()}]
    assert sum(counts) == 40
    assert len(counts) == 2
    assert min(counts) >= 10


def test_calls_in_flight_when_a_server_dies_are_asked_again_and_finished_ones_never(registry: Registry) -> None:
    words(*map(str, range(30)))
    model = served("--die-once", "died", "--seconds", "0.02", limits={"concurrency": 4})
    assert answered(model, registry) == {"asked": "ran"}
    assert Path("died").exists()
    prompts = [prompt for _, prompt in calls()]
    assert len(prompts) == len(set(prompts)) == 30


def test_one_of_two_servers_dies(registry: Registry) -> None:
    words(*map(str, range(30)))
    model = served("--die-once", "died", "--seconds", "0.02", replicas=2, limits={"concurrency": 8})
    assert answered(model, registry) == {"asked": "ran"}
    assert Path("died").exists()
    assert len({prompt for _, prompt in calls()}) == 30


def test_calls_in_flight_when_a_server_hangs_are_asked_again_and_finished_ones_never(registry: Registry) -> None:
    words(*map(str, range(30)))
    options = ("--hang-once", "died", "--seconds", "0.02")
    model = served(*options, limits={"concurrency": 4}, hang_timeout=1, health="/health")
    assert answered(model, registry) == {"asked": "ran"}
    assert Path("died").exists()
    prompts = [prompt for _, prompt in calls()]
    assert len(prompts) == len(set(prompts)) == 30


def test_a_server_that_dies_while_it_is_asked_what_it_can_do_is_asked_again(registry: Registry) -> None:
    words("one", "two")
    document = json.loads(pipeline("asked", teacher=served("--die-once", "died", retries=0)))
    document["steps"]["asked"]["op"] = "sure"
    result = run_text(json.dumps(document), registry)
    assert result.state == "succeeded", result.error
    assert Path("died").exists()


def test_a_model_of_several_steps_keeps_its_server_until_the_last(registry: Registry) -> None:
    words("one")
    document = json.loads(
        pipeline(
            teacher=served("--pids", "pids"),
        )
    )
    document["steps"]["again"] = {"op": "ask_once", "in": "asked"}
    assert outcomes(run_text(json.dumps(document), registry)) == {"asked": "ran", "again": "ran"}
    assert len(Path("pids").read_text().splitlines()) == 1


def test_keys_contain_what_shapes_answers_and_not_where_the_server_is(registry: Registry, workdir: Path) -> None:
    words("one")

    def identity(**serve: Any) -> str:
        Path("p.yaml").write_text(pipeline(teacher={"provider": "openai", "model": "some/model", "serve": serve}))
        return check(Path("p.yaml")).steps["asked"].models["teacher"].identity

    plain = identity(engine="vllm", args={"max-model-len": 2048})
    assert plain == "some/model [vllm --max-model-len 2048]"
    same = identity(
        engine="vllm", python="/opt/vllm", num_gpus=2, replicas=2, env={"CUDA_LAUNCH_BLOCKING": "1", "VLLM_CPU_KVCACHE_SPACE": "1"},
        args={"max_model_len": 2048, "tensor-parallel-size": 2, "gpu-memory-utilization": 0.5}, health="/ping", start_timeout=9,
    )  # fmt: skip
    assert same == plain
    assert identity(engine="vllm", args={"max-model-len": 4096}) != plain
    assert identity(engine="transformers", args={"max-model-len": 2048}) != plain
    assert identity(engine="vllm", args={"max-model-len": 2048}, env={"VLLM_ATTENTION_BACKEND": "x"}) != plain


def test_the_key_contains_the_hash_of_the_weights(registry: Registry, workdir: Path) -> None:
    words("one")
    folder = workdir / "weights"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    model = served("--model", "{model}", model=str(folder))
    assert answered(model, registry) == {"asked": "ran"}
    folder.rename(workdir / "elsewhere")
    assert answered(model | {"model": "elsewhere"}, registry) == {"asked": "hit"}, "the same files at another place"
    (workdir / "elsewhere" / "config.json").write_text('{"hidden_size": 1}')
    assert answered(model | {"model": "elsewhere"}, registry) == {"asked": "ran"}


def test_a_server_started_by_hand_with_the_same_identity_gets_no_call(registry: Registry, chat_server: ChatServer) -> None:
    words("one", "two")
    document = pipeline(teacher=served())
    run_text(document, registry)
    identity = check(Path("p.yaml")).steps["asked"].models["teacher"].identity
    by_hand = {"provider": "openai", "model": "test-model", "base_url": chat_server.base_url, "identity": identity}
    assert answered(by_hand, registry) == {"asked": "hit"}
    words("one", "two", "three")
    assert answered(by_hand, registry) == {"asked": "ran"}
    assert chat_server.prompts == ["Say three"]
    elsewhere = by_hand | {"base_url": "http://127.0.0.1:1/v1"}
    assert answered(elsewhere, registry) == {"asked": "hit"}
    assert answered(served(port=45671), registry) == {"asked": "hit"}
    assert len(calls()) == 2


def test_the_plan_says_what_will_be_started_and_under_which_identity(registry: Registry) -> None:
    words("one")

    def planned(model: dict[str, Any]) -> str:
        Path("p.yaml").write_text(pipeline(teacher=model))
        console = Console(file=StringIO(), width=100)
        print_plan(make_plan(check(Path("p.yaml")), registry, select=set(), force=set()), console)
        return str(console.file.getvalue())  # type: ignore[attr-defined]

    text = planned(served(replicas=2, num_gpus=1))
    assert "asked: starts 2 servers of model teacher, each with 1 GPU: {python} " in text
    assert 'identity of model teacher: "test-model [{python} ' in text
    answered(served(), registry)
    text = planned(served(replicas=2, num_gpus=1))
    assert "starts" not in text
    assert 'identity of model teacher: "test-model [{python} ' in text


def test_a_server_that_fails_to_start_fails_the_step_with_its_last_words(registry: Registry) -> None:
    words("one")
    error = failed(served("--broken"), registry)
    assert (
        "step 'asked' failed: the server of model 'teacher' cannot be used: it did not start: it ended with status 3" in error
    )
    assert "RuntimeError: no kernel image is available" in error


def test_a_server_that_is_never_ready_fails_within_its_limit(registry: Registry) -> None:
    words("one")
    assert "it was not ready within 0.5 s (serve.start_timeout)" in failed(served("--never-ready", start_timeout=0.5), registry)


def test_a_model_that_the_server_does_not_know_fails_before_any_call(registry: Registry) -> None:
    words("one")
    assert "it does not know the model 'test-model'; it has 'a', 'b'" in failed(served("--model", "a,b"), registry)
    assert not calls()


def test_one_replica_that_cannot_start_does_not_stop_the_others(registry: Registry) -> None:
    words("one", "two")
    code = "import os, runpy, sys\ntry: os.mkdir('first')\nexcept OSError: sys.exit('no room')\nsys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')"
    model = served(replicas=2)
    model["serve"]["command"] = [sys.executable, "-c", code, *command()[1:]]
    del model["serve"]["python"]
    assert answered(model, registry) == {"asked": "ran"}


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"model": "./nothing", "serve": {"engine": "vllm"}}, "there is no folder ./nothing"),
        (
            {"model": "nothing.gguf", "serve": {"engine": "llama_cpp"}},
            "there is no file nothing.gguf; llama_cpp serves a GGUF file",
        ),
        ({"model": "registry:a/b@1", "serve": {"engine": "vllm"}}, "there is no registry yet, so there is no model a/b@1"),
        ({"model": "step:sft"}, "a step trains step:sft, so no server has it yet: use provider: transformers, or add serve:"),
        ({"serve": {}}, "give either engine (vllm, llama_cpp or transformers) or command"),
        ({"serve": {"engine": "vllm", "command": ["a", "{port}"]}}, "give either engine"),
        ({"serve": {"command": ["a"]}}, "the command has no {port}"),
        ({"serve": {"engine": "vllm"}, "base_url": "http://127.0.0.1:1/v1"}, "base_url cannot be given together with serve"),
        ({"serve": {"engine": "vllm", "args": {"api-key": "x"}}}, "api-key is a secret"),
        ({"serve": {"engine": "vllm", "replicas": 2, "port": 80}}, "port is for one server"),
        ({"provider": "transformers", "serve": {"engine": "vllm"}}, "serve is only for models behind an API"),
    ],
)
def test_check_reports_mistakes(workdir: Path, model: dict[str, Any], said: str) -> None:
    words("one")
    Path("p.yaml").write_text(pipeline(teacher={"provider": "openai", "model": "test-model", **model}))
    with pytest.raises(PipelineError) as found:
        check(Path("p.yaml"))
    assert said in str(found.value)
