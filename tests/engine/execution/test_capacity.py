"""Whether there is room counts on each node, not in the sum over all nodes."""

from __future__ import annotations

import pytest

from engine.errors import StepError
from engine.execution.capacity import Amount, Capacity
from engine.execution.executor import Kind, WorkerRequest
from engine.spec.pipeline_spec import Resources

GB = 1 << 30


def request(kind: Kind = "compute", devices: int = 1, **resources: float) -> WorkerRequest:
    return WorkerRequest("s", kind, Resources.model_validate(resources), devices)


def test_free_parts_of_two_nodes_are_not_one_node() -> None:
    two = Capacity((Amount(4, 1), Amount(4, 1)))
    halves = [Amount(1, 0.5), Amount(1, 0.5)]
    assert two.has_room([Amount(1, 0.5)], beside=halves)
    assert not two.has_room([Amount(1, 1)], beside=halves)
    assert two.has_room([Amount(4, 1)], beside=[Amount(4, 1)])
    assert not two.has_room([Amount(5)], beside=[])


def test_the_largest_amount_is_placed_first() -> None:
    two = Capacity((Amount(4), Amount(4)))
    assert two.has_room([Amount(1), Amount(1), Amount(4)], beside=())
    assert not two.has_room([Amount(1), Amount(1), Amount(4)], beside=[Amount(3)])


def test_several_devices_are_placed_together() -> None:
    two = Capacity((Amount(8, 2), Amount(8, 1)))
    assert two.has_room([Amount(1, 1)] * 3, beside=[])
    assert not two.has_room([Amount(1, 1)] * 3, beside=[Amount(0, 0.5)])
    assert not two.has_room([Amount(1, 1.5)] * 2, beside=[])


def test_memory_is_reserved() -> None:
    one = Capacity.of([{"CPU": 8, "memory": 10.0 * GB}])
    assert one.has_room([Amount(1, memory=4 * GB)], beside=[Amount(1, memory=6 * GB)])
    assert not one.has_room([Amount(1, memory=4 * GB)], beside=[Amount(1, memory=7 * GB)])
    assert one.has_room([Amount(1)], beside=[Amount(1, memory=10 * GB)])


def test_work_without_gpus_leaves_the_nodes_with_gpus_free() -> None:
    assert Capacity((Amount(4, 1), Amount(2))).has_room([Amount(4, 1)], beside=[Amount(1), Amount(1)])


def test_workers_are_as_many_as_fit_on_the_nodes() -> None:
    nodes = Capacity((Amount(3, 1, 8 * GB), Amount(3, 1, 8 * GB)))
    assert nodes.resources_for(request(num_cpus=2)).workers == 2
    assert nodes.resources_for(request()).workers == 6
    assert nodes.resources_for(request(memory=5 * GB)).workers == 2
    assert nodes.resources_for(request("local")).workers == 2
    assert nodes.resources_for(request("local", num_gpus=0.5)).workers == 4
    assert nodes.resources_for(request("server")).workers == 1


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (request(num_cpus=8), "8 CPUs per worker, but no node of the cluster has that much"),
        (request(num_cpus=1, num_gpus=2), "1 CPU and 2 GPUs per worker"),
        (request(num_cpus=3, num_gpus=1), "3 CPUs and 1 GPU per worker"),  # each is there, but not on one node
        (request(memory=9 * GB), "1 CPU and 9 GiB of memory per worker, but no node of the cluster has that much"),
        (request(num_cpus=8), r"\(its nodes have 4 CPUs and 8 GiB of memory; 2 CPUs, 1 GPU and 8 GiB of memory\)"),
        (request("whole", devices=3, num_cpus=2, num_gpus=0), None),
        (request("whole", devices=4, num_cpus=2, num_gpus=0), "4 devices with 2 CPUs each do not fit"),
    ],
)
def test_more_than_any_node_has_is_an_error(asked: WorkerRequest, message: str | None) -> None:
    nodes = Capacity((Amount(4, 0, 8 * GB), Amount(2, 1, 8 * GB)))
    if message is None:
        nodes.resources_for(asked)
        return
    with pytest.raises(StepError, match=message):
        nodes.resources_for(asked)
