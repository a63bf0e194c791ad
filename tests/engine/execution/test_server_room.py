"""What servers need from a cluster. The clusters have GPUs that this machine does not have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.errors import StepError
from engine.execution.capacity import Capacity
from engine.execution.executor import WorkerRequest
from engine.execution.server_room import check_programs, check_room, resources_of
from engine.llm.types.serve_spec import ServeSpec
from engine.serving.launch import Launch, Served
from engine.spec.pipeline_spec import Resources

GPU_NODE, CPU_NODE = {"CPU": 8, "GPU": 2}, {"CPU": 4}
ASKS = WorkerRequest("asked", "server", Resources())


def launches(**serve: Any) -> list[Launch]:
    spec = ServeSpec(engine="vllm", **serve)
    models = (Served(model="local", name="m", weights=None),)
    return [Launch(models=models, serve=spec, number=number, log=Path("log")) for number in range(1, spec.replicas + 1)]


def test_a_missing_program_is_reported_unless_the_nodes_are_other_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StepError, match="the server of model 'local' cannot be started: serve\\.python: there is no file"):
        check_programs(launches(python="/opt/none"))
    monkeypatch.setenv("ENGINE_RAY_ADDRESS", "ray://elsewhere:10001")
    check_programs(launches(python="/opt/none"))


def test_defaults_follow_the_cluster() -> None:
    on_gpus, on_cpus = Capacity.of([GPU_NODE]), Capacity.of([CPU_NODE])
    assert resources_of(ServeSpec(engine="vllm"), on_gpus) == Resources(num_cpus=1, num_gpus=1)
    assert resources_of(ServeSpec(engine="vllm"), on_cpus) == Resources(num_cpus=0, num_gpus=0)
    assert resources_of(ServeSpec(engine="llama_cpp"), on_gpus) == Resources(num_cpus=0, num_gpus=0)
    assert resources_of(ServeSpec(engine="vllm", num_gpus=0.5, num_cpus=2), on_gpus) == Resources(num_cpus=2, num_gpus=0.5)


@pytest.mark.parametrize(
    ("nodes", "serve", "fits"),
    [
        ([GPU_NODE], {"replicas": 2}, True),
        ([GPU_NODE], {"replicas": 3}, False),
        ([GPU_NODE, GPU_NODE], {"replicas": 2, "num_gpus": 2}, True),
        ([GPU_NODE, GPU_NODE], {"num_gpus": 4}, False),
        ([CPU_NODE], {"num_gpus": 1}, False),
        ([CPU_NODE, GPU_NODE], {"num_gpus": 1, "num_cpus": 8}, True),
        ([CPU_NODE], {"num_cpus": 5}, False),
    ],
)
def test_servers_that_do_not_fit_on_the_nodes_are_reported(
    nodes: list[dict[str, float]], serve: dict[str, Any], fits: bool
) -> None:
    capacity = Capacity.of(nodes)
    if fits:
        check_room(capacity, launches(**serve), ASKS)
        return
    with pytest.raises(StepError, match=r"Reduce serve.replicas, serve.num_gpus or serve.num_cpus, or run on more nodes"):
        check_room(capacity, launches(**serve), ASKS)


def test_nodes_that_are_alike_are_named_once() -> None:
    with pytest.raises(StepError) as raised:
        check_room(Capacity.of([CPU_NODE] * 50), launches(num_gpus=1), ASKS)
    assert str(raised.value).count("4 CPUs") == 1
