"""One step in a run: from waiting for its inputs, through its partitions, to the commit of its outputs.

A step goes from `waiting` through `open` to `ended`; one that hits or is not reached skips `open`. An open step that
fails, or is stopped, takes no further partition, and ends with its last running one.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from engine.errors import StepError
from engine.execution.jobs import job_of, request_of
from engine.jobs.feed import Feed
from engine.jobs.heartbeat import forget_heartbeats, owner_of
from engine.jobs.live import LiveStep
from engine.jobs.messages import WHOLE, Failure, Partition, Receipt, Usage
from engine.jobs.receipts import Receipts
from engine.operator.types import DeclarationError
from engine.pipeline.graph import Link, Step
from engine.planning.inputs import are_valid, link_key, resolve_input, with_models
from engine.planning.plan import find_outputs, size_of
from engine.planning.results import StepPlan
from engine.planning.reviews import StepReview
from engine.running.finished_rows import FinishedRows
from engine.running.partition_table import PartitionTable
from engine.running.questions import ask
from engine.running.run_state import FailedStepError, RunState
from engine.running.step_record import record_of, record_of_hit, rejects_of, step_result
from engine.running.step_reporter import StepReporter
from registry import Manifest, RegistryError, SideObject, StepRun

if TYPE_CHECKING:
    from engine.running.drafts import Placed

_ROWS_SEEN = 64
"""The steps that follow begin when this many rows are finished and no more of them than allowed were rejected."""

_CUT_AT_ONCE = 16
"""Objects that are read and cut before others have their turn."""

_MOST_WAITING = 256
"""No more is cut while this many partitions wait to run: it would only fill the memory."""


class StepTask:
    """One step in a run.

    Args:
        run: the state that the steps share.
        name: the step.
        force: run it even if it hits.
    """

    def __init__(self, run: RunState, name: str, *, force: bool) -> None:
        self.run = run
        self.step: Step = run.pipeline.steps[name]
        self.name = name
        self.force = force
        self.state: Literal["waiting", "open", "ended"] = "waiting"
        self.failure: FailedStepError | None = None
        self.stopping = False
        self.waited_for = ""
        self.succeeded = False
        self.review: StepReview | None = None
        self.waits = False
        self._request = request_of(self.step)
        self._placed = False
        self._halted = False
        self._was_opened = False

    # -- waiting --------------------------------------------------------------------------------------------------------

    @property
    def _streamed(self) -> tuple[Link, ...]:
        port = self.step.operator.streamed
        return self.step.inputs.get(port, ()) if port else ()

    def can_feed(self, output: str) -> bool:
        """Whether another step may already read the finished rows of an output.

        Not before enough rows are finished, with few enough rejects: if this step failed, that work would be wasted.
        """
        return self.state == "open" and not self.stopping and output in self._rows.objects and self._trusted

    @property
    def _trusted(self) -> bool:
        finished = self._table.rows_finished
        return finished >= _ROWS_SEEN and self._table.rows_rejected <= self.step.max_reject_ratio * finished

    def end_unreached(self) -> None:
        """End without running, because a step before it failed or the run was stopped."""
        self.state = "ended"
        self.run.servers.done(self.name)

    def _wait(self) -> None:
        """End without outputs until people have decided about enough rows: the next run continues."""
        self.waits, self.waited_for, plan = True, "reviews", self.plan
        record = record_of(plan, "waiting", plan.rows or 0, 0, (), Usage(), self._started, self.waited_for, (), self.step.notes)
        self.run.commit([], record)
        self._end(record, (), ())

    def _use(self, manifests: tuple[Manifest, ...], plan: StepPlan) -> None:
        """End with outputs that exist already."""
        record = record_of_hit(self.name, plan, manifests, self._started, self.waited_for)
        self.run.use(record, manifests)
        self._end(record, manifests, rejects_of(manifests))

    # -- open -----------------------------------------------------------------------------------------------------------

    def open(self, sources: dict[tuple[str, str], StepTask]) -> None:
        """Begin, or use existing outputs if all inputs are committed and the step hits.

        Args:
            sources: the steps whose finished rows come while it runs, by reference.
        """
        run = self.run
        self._started = dt.datetime.now(dt.UTC)
        self.step = with_models(self.step, run.available, run.registry)
        self._sources = sources
        plan = run.keyed(self.step, self.review)
        if not sources and not self.force:
            found = find_outputs(run.pipeline, self.step, plan.key, run.registry, run.known)
            if found and not (run.retry_rejects and rejects_of(found)):
                self._use(found, plan)
                return
        self.plan = plan
        self.review = plan.review  # decisions that are made meanwhile are for the next run
        if plan.review:
            if run.asks_people:
                ask(run, self.step, plan, self._started)
            if plan.undecided:
                self._wait()
                return
        self._disk = Receipts.of(run.registry, plan.base_key)
        self._rows = FinishedRows(run.registry.store, self.step.operator)
        self._usage = Usage()
        links = self._streamed
        self._table = PartitionTable(
            self._disk, run.claims, max(1, len(links)), rerun=self.force, retry_rejects=run.retry_rejects
        )
        self._reporter = StepReporter(
            run, self.step, plan, self._table, self._disk, self._started, self._unfinished_sources, force=self.force
        )
        self._feed = Feed(run.registry.store, run.size or size_of(self.step), len(links))
        self._taken = [0] * len(links)
        self.state, self._was_opened = "open", True
        if self.step.operator.streamed is None:
            self._table.add(0, Partition(digest=WHOLE, rows=plan.rows or 0))
        for place, link in enumerate(links):
            if link_key(link) not in sources:
                version = resolve_input(run.pipeline, self.step, self._port, link, run.available, run.registry)
                self._feed.add(place, version.data, valid=version.valid)
                self._feed.complete(place)
        self.cut()
        self._reporter.opened(self.rows)

    def cut(self) -> None:
        """Take what the steps before have finished, and cut some of it into partitions."""
        if self.stopping:
            return
        for place, link in enumerate(self._streamed):
            source = self._sources.get(link_key(link))
            if source is None:
                continue
            objects = source._rows.objects[link.output]
            if len(objects) > self._taken[place]:
                valid = are_valid(self.run.pipeline, self.step, self._port, link)
                self._feed.add(place, objects[self._taken[place] :], valid=valid)
                self._taken[place] = len(objects)
            if source.succeeded:
                self._feed.complete(place)
        for _ in range(_CUT_AT_ONCE):
            if not self.has_more_to_cut:
                break
            version, parts = self._feed.cut()
            for part in parts:
                self._table.add(version, part)
        self._take_finished()

    @property
    def has_more_to_cut(self) -> bool:
        """Whether `cut` would find something to do at once."""
        can_cut = self._feed.can_cut and self._table.waiting < _MOST_WAITING
        return self.state == "open" and not self.stopping and can_cut

    @property
    def rows(self) -> int:
        """The number of its input rows, as far as they are known."""
        return self._feed.rows if self.step.operator.streamed else (self.plan.rows or 0)

    @property
    def is_running(self) -> bool:
        """Whether partitions are running."""
        return self.state == "open" and bool(self._table.running)

    @property
    def is_paid(self) -> bool:
        """Whether an interruption should wait for its running partitions, because their answers are paid for."""
        return self.is_running and bool(self.step.operator.roles) and self.step.operator.shape == "row"

    @property
    def is_made(self) -> bool:
        """Whether all rows have come and all are processed."""
        return self.state == "open" and self._feed.is_cut and not self._table.unfinished

    def submit(self) -> bool:
        """Give the cluster as many partitions as it has room for; returns whether it was given any."""
        given = False
        while not self.stopping and self._table.waiting and (not self._placed or self.run.executor.room(self.name) > 0):
            if not self.run.servers.are_ready(self.step, self._request):
                self.waited_for = "servers"
                break
            if not self._placed and not self._place():
                break
            part = self._table.take()
            if part is None:
                if self._table.waits_for_run and self.waited_for != "another run":
                    self.waited_for = "another run"
                    self.run.observer.message(f"{self.name}: another run is making the same rows; waiting for them")
                break
            self.run.executor.submit(self.name, part)
            given = True
        self._take_finished()
        return given

    def _place(self) -> bool:
        """Get workers; False while others use what they need, or servers are asked what they can do. Raises StepError."""
        run, executor = self.run, self.run.executor
        if not run.needs.are_met(self.step, run.servers.addresses):
            return False
        executor.start(shared_limits=bool(run.shared))
        resources = executor.place(self._request)
        if resources is None:
            run.servers.make_room(self.name)
            self.waited_for = "resources"
            return False
        job = job_of(
            run.pipeline,
            self.step,
            self.plan,
            run.registry,
            run.run_id,
            resources,
            run.needs.spent,
            run.shared,
            retry_rejects=run.retry_rejects,
        )
        executor.open(job, self._request, resources)
        self._placed = True
        return True

    def receive(self, result: Receipt | Failure) -> None:
        """Take a result of one of its partitions. Raises FailedStepError if it fails the step."""
        self._usage += result.usage
        if isinstance(result, Receipt):
            self._table.finished(result)
            if self.failure is None:
                self._take_finished()
                if self._too_many_rejects:
                    raise FailedStepError(self.name, "")
            return
        if result.stopped and not self.stopping:
            self._table.returned(result.digest)
        else:
            self._table.ended(result.digest)
        if not result.stopped:
            raise FailedStepError(self.name, result.message, result.traceback)

    def stop(self) -> None:
        """Take no further partition. Those that are running continue."""
        self.stopping = True

    def halt(self) -> None:
        """Send no more requests, either."""
        self.stop()
        if self._placed and not self._halted and self.state == "open":
            self._halted = True
            self.run.executor.halt(self.name)

    def show_progress(self) -> LiveStep:
        """Report how far it is; returns what it is doing, for others to read."""
        if self.state != "open":
            return LiveStep(step=self.name, op=self.step.operator.name, state="waiting", waited_for=self.waited_for)
        return self._reporter.advanced(self.rows, self._usage, self.waited_for, all_rows=self._feed.is_cut)

    # -- the end --------------------------------------------------------------------------------------------------------

    def conclude(self) -> None:
        """Commit the outputs. Raises FailedStepError."""
        from engine.running.drafts import drafts  # imports pyarrow.compute, which a run of hits does without

        run = self.run
        try:
            self._check_rejects()
        except StepError as error:
            raise FailedStepError(self.name, str(error)) from error
        plan = run.keyed(self.step, self.review)
        if plan.base_key != self.plan.base_key:
            raise FailedStepError(self.name, "a file that its code names changed while it ran; run again")
        if not self.force and not self._table.fresh:
            found = find_outputs(run.pipeline, self.step, plan.key, run.registry)
            if found and not (run.retry_rejects and rejects_of(found)):
                self._use(found, plan)
                return
        if sum(receipt.accounted for receipt in self._table.receipts()) != plan.rows:
            raise AssertionError(f"step {self.name}: rows in are not rows produced + filtered + rejected + unused")
        try:
            made = drafts(run.pipeline, self.step, plan, self._in_place(plan), self._rows.content_ids(), run.registry)
        except DeclarationError as error:  # of the operator's finish function
            raise FailedStepError(self.name, str(error)) from error
        record = self._record("resumed" if self._table.found else "ran", sum(draft.rows for draft in made))
        self._disk.mark_committed(plan.key, (receipt.digest for receipt in self._table.receipts()))
        manifests = run.commit(made, record)
        self._table.forget_checkpoints()
        self._end(record, tuple(manifests), self._reporter.rejects)

    def placed(self) -> list[tuple[int, Partition, Receipt]]:
        """The finished partitions in the order of the input, each with the number of its version of the streamed input."""
        parts = self._table.placed() if self._was_opened else []
        return [(number, part, receipt) for number, versions in enumerate(parts) for part, receipt in versions]

    def fail(self, failure: FailedStepError) -> None:
        """Record the first failure. The step ends once its running partitions have ended."""
        self.failure = self.failure or failure

    def end_unfinished(self) -> FailedStepError | None:
        """End without outputs, and return the failure, if it failed."""
        if self.failure:
            try:
                self._check_rejects()
            except StepError as error:
                self.failure = FailedStepError(self.name, str(error))
            except (RegistryError, OSError):
                pass  # its rejects cannot be read; the failure stays as it is
        record = self._record("failed" if self.failure else "stopped")
        if trouble := self.run.record(record):
            self.failure = self.failure or FailedStepError(self.name, trouble)
        self._end(record, (), self._reporter.rejects)
        return self.failure

    def _end(self, record: StepRun, manifests: tuple[Manifest, ...], rejects: Iterable[SideObject]) -> None:
        run = self.run
        if self._placed:
            run.executor.close(self.name)
        notes: list[str] = []
        if self.state == "open":
            notes = self._reporter.notes
            forget_heartbeats(self._disk.folder, owner_of(run.run_id, self.name))
        self.state = "ended"
        run.servers.done(self.name)
        self.succeeded = bool(manifests)
        run.add(self.name, manifests)
        run.finish(
            step_result(run.registry, self.step, record, manifests, list(rejects), notes, self.review if self.waits else None)
        )

    # -- inside ---------------------------------------------------------------------------------------------------------

    def _unfinished_sources(self) -> list[str]:
        return [source.name for source in self._sources.values() if not source.succeeded]

    @property
    def _port(self) -> str:
        assert self.step.operator.streamed is not None
        return self.step.operator.streamed

    def _take_finished(self) -> None:
        """Append what is finished, in the order of the input, to the rows that other steps can begin with."""
        self._rows.add(list(self._table.in_order(self._feed.cut_from_start)))

    def _in_place(self, plan: StepPlan) -> list[Placed]:
        """All receipts, each with the place of its first row in the streamed input."""
        from engine.running.drafts import Placed

        port = self.step.operator.streamed
        starts = [0]
        for version in plan.inputs[port] if port else ():
            starts.append(starts[-1] + version.rows)
        placed = self._table.placed()
        return [Placed(starts[number] + part.first, receipt) for number, parts in enumerate(placed) for part, receipt in parts]

    @property
    def _too_many_rejects(self) -> bool:
        """Whether more rows were rejected than allowed; False as long as more rows may come, which could lower the share."""
        return self._feed.is_complete and self._table.rows_rejected > self.step.max_reject_ratio * self.rows

    def _check_rejects(self) -> None:
        if not self._too_many_rejects:
            return
        text = self._reporter.too_many_rejects(self.rows)
        # Rejected rows must run again once the cause is fixed, so their partitions count as unfinished.
        self._table.forget_rejected()
        raise StepError(text)

    def _record(self, outcome: Literal["ran", "resumed", "failed", "stopped"], rows_out: int = 0) -> StepRun:
        usage = self._usage + self.run.needs.used_by(self.step)
        return self._reporter.record(outcome, self.rows, rows_out, usage, self.waited_for)
