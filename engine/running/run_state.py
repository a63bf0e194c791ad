"""The state that the steps of a run share, and the results they have made so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from engine.errors import message_of
from engine.execution.executor import Executor
from engine.jobs.partitions import Size
from engine.model_servers.servers import Servers
from engine.pipeline.graph import Pipeline, Step
from engine.planning.inputs import Available, resolve_inputs, version_of
from engine.planning.plan import keyed
from engine.planning.results import StepPlan
from engine.planning.reviews import StepReview
from engine.planning.sources import KnownVersions
from engine.running.claims import Claims
from engine.running.result import Observer, StepResult
from registry import Draft, Hit, Manifest, Registry, RegistryError, StepRun
from registry.storage.valid_text import repaired

if TYPE_CHECKING:
    from engine.model_servers.requirements import Needs


class FailedStepError(Exception):
    """A step failed; the message is for the user."""

    def __init__(self, step: str, message: str, trace: str = "") -> None:
        super().__init__(repaired(f"step {step!r} failed: {message}"))
        self.trace = trace


@dataclass
class RunState:
    """The state that the steps of a run share.

    Args:
        claims: the claims on partitions of this run.
        shared: the models whose limits several processes may use; see engine/execution/jobs.py.
        known: the versions that existed before the run.
        hits: the hits that are not recorded yet.
        asks_people: whether to record what reviews ask; a preview does not.
        size: the size of every partition; None leaves it to each operator.
    """

    pipeline: Pipeline
    registry: Registry
    executor: Executor
    observer: Observer
    run_id: str
    claims: Claims
    retry_rejects: bool = False
    shared: frozenset[str] = frozenset()
    available: Available = field(default_factory=dict)
    refs: dict[str, int] = field(default_factory=dict)
    results: dict[str, StepResult] = field(default_factory=dict)
    known: KnownVersions = field(default_factory=dict)
    hits: list[Hit] = field(default_factory=list)
    size: Size | None = None
    asks_people: bool = True

    @cached_property
    def servers(self) -> Servers:
        """The servers of the models that the run serves itself."""

        def start() -> None:
            self.executor.start(shared_limits=bool(self.shared))

        return Servers(self.executor, start, self.registry.root / "runs", self.run_id, self.observer.message)

    def add(self, name: str, manifests: Sequence[Manifest]) -> None:
        """Add the versions of a dataset or step."""
        for manifest in manifests:
            self.available[name, manifest.output] = version_of(manifest)
            self.refs[manifest.name] = manifest.version

    def keyed(self, step: Step, review: StepReview | None = None) -> StepPlan:
        """A step's keys over the versions that are committed.

        Args:
            review: its review as it was when the step was opened; None to look it up.
        """
        inputs = resolve_inputs(self.pipeline, step, self.available, self.registry)
        return keyed(self.pipeline, step, inputs, self.registry, review)

    def use(self, record: StepRun, manifests: tuple[Manifest, ...]) -> None:
        """Note that a step used existing outputs. Hits that follow each other are recorded in one commit, which takes 20 ms."""
        self.hits.append(Hit(record, manifests))

    def record_hits(self) -> None:
        """Record the hits that are not recorded yet. They are not recorded again if that fails."""
        hits, self.hits = self.hits, []
        if hits:
            self.registry.catalog.record_hits(self.run_id, hits)

    def commit(self, drafts: Sequence[Draft], record: StepRun | None) -> list[Manifest]:
        """Commit the outputs and the record of a step, after the hits before it."""
        self.record_hits()
        return self.registry.catalog.commit(drafts, self.run_id, record)

    def record(self, record: StepRun) -> str:
        """Record a step that ends without outputs; returns why that failed, if it did: the step has to end all the same."""
        try:
            self.commit([], record)
        except (RegistryError, OSError) as error:
            return message_of(error)
        return ""

    @cached_property
    def needs(self) -> Needs:
        """The checks of what servers can do; made on first use."""
        from engine.model_servers.requirements import Needs  # finished work does without it

        return Needs(self.registry)

    def stop_asking(self) -> None:
        """Stop the checks that `needs` has begun."""
        if "needs" in self.__dict__:
            self.needs.close()

    def finish(self, result: StepResult) -> None:
        """Add what a step did, and report it."""
        self.results[result.record.full_step] = result
        self.observer.step_finished(result)
