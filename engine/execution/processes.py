"""The pool's record of its worker processes, and of the steps that use them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from engine.execution.capacity import Amount
from engine.jobs.messages import Partition
from engine.spec.pipeline_spec import Resources

_CALL_SECONDS = 0.5
"""The target duration of a call: long compared to a message, short compared to what waits for its results."""

_MOST_IN_CALL = 16

Shape = tuple[str, Resources]
"""What steps that share processes have in common: the kind of work (or the step that has its own), and the resources."""


class Call(NamedTuple):
    """Partitions of a step that a process runs one after another, and when they were sent."""

    step: str
    parts: tuple[Partition, ...]
    sent_at: float


@dataclass(eq=False)
class Process:
    """An actor, what it is getting ready for, and what it is running."""

    name: str
    shape: Shape
    amount: Amount
    actor: Any
    starting: Any
    began: float
    opening: dict[Any, str] = field(default_factory=dict)
    opened: set[str] = field(default_factory=set)
    running: dict[Any, Call] = field(default_factory=dict)

    @property
    def waited_for(self) -> list[Any]:
        """The Ray futures of everything it is doing."""
        return [self.starting] if self.starting is not None else [*self.opening, *self.running]

    def send(self, step: str, parts: tuple[Partition, ...]) -> None:
        """Send it partitions of a step that it has opened, to run one after another."""
        done = self.actor.run.remote(step, [part.model_dump_json() for part in parts])
        self.running[done] = Call(step, parts, time.monotonic())

    def calls(self, step: str) -> int:
        """The number of a step's calls that it is running."""
        return sum(call.step == step for call in self.running.values())

    def load(self, step: str) -> int:
        """The number of a step's partitions that it is running."""
        return sum(len(call.parts) for call in self.running.values() if call.step == step)

    def parts(self) -> Iterator[tuple[str, Partition]]:
        """The partitions that it is running, in the order in which they were sent."""
        return ((call.step, part) for call in self.running.values() for part in call.parts)


@dataclass(eq=False)
class PoolStep:
    """A step that has been taken on.

    Attributes:
        in_flight: calls of a process.
        per_call: the maximum number of partitions of a call.
    """

    job: str
    shape: Shape
    workers: int
    in_flight: int
    devices: tuple[Amount, ...]
    waiting: deque[Partition] = field(default_factory=deque)
    halted: bool = False
    per_call: int = 1

    def returned(self, call: Call) -> None:
        """Learn from a call how many partitions the next ones should have.

        Only steps that compute have several: a message costs as much as a thousand rows of a cheap operator. Partitions that
        wait for a model run concurrently, and each is useful as soon as it is finished.
        """
        if self.shape[0] == "compute":
            took = max(time.monotonic() - call.sent_at, 1e-3)
            fitting = int(len(call.parts) * _CALL_SECONDS / took)
            self.per_call = max(1, min(_MOST_IN_CALL, 2 * self.per_call, fitting))
