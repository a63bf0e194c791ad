"""How many partitions a worker gets in one call."""

from __future__ import annotations

import time

import pytest

from engine.execution.processes import Call, PoolStep
from engine.jobs.messages import Partition
from engine.spec.pipeline_spec import Resources


def step(kind: str = "compute") -> PoolStep:
    return PoolStep("{}", (kind, Resources()), workers=1, in_flight=2, devices=())


def call(parts: int, seconds: float) -> Call:
    """A call that is just returning after so many seconds."""
    return Call("s", tuple(Partition(digest=str(number), rows=1) for number in range(parts)), time.monotonic() - seconds)


def test_calls_that_return_soon_get_more_partitions() -> None:
    cheap, sizes = step(), []
    for _ in range(6):
        cheap.returned(call(cheap.per_call, 0.0))
        sizes.append(cheap.per_call)
    assert sizes == [2, 4, 8, 16, 16, 16]


def test_partitions_that_take_long_have_a_call_each() -> None:
    slow = step()
    slow.per_call = 16
    slow.returned(call(16, 60.0))
    assert slow.per_call == 1


@pytest.mark.parametrize("kind", ["server", "local", "whole step"])
def test_partitions_that_wait_for_a_model_have_a_call_each(kind: str) -> None:
    asking = step(kind)
    asking.returned(call(1, 0.0))
    assert asking.per_call == 1
