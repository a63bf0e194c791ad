"""Reports about an open step: that it began, why it runs, its progress, and its record at the end."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Literal

from engine.causes import CountedCause
from engine.jobs.heartbeat import owner_of, read_heartbeats
from engine.jobs.live import LiveStep
from engine.jobs.messages import Usage
from engine.jobs.receipts import Receipts
from engine.pipeline.graph import Step
from engine.planning.explain import explain
from engine.planning.inputs import resolve_inputs
from engine.planning.results import StepPlan
from engine.running.partition_table import PartitionTable
from engine.running.reject_examples import Place, examples
from engine.running.run_state import RunState
from engine.running.step_record import reasons_of, record_of
from registry import RegistryError, SideObject, StepRun
from registry.counted import counted


@dataclass(frozen=True)
class StepReporter:
    """Reports what an open step does, without changing anything.

    Args:
        plan: the step's plan at the time when it was opened.
        table: the step's partitions.
        receipts: the receipts on disk; the heartbeats of its workers are beside them.
        started: the time when the step was opened.
        unfinished_sources: the steps that are still making rows for it.
        force: whether it runs even if it hits.
    """

    run: RunState
    step: Step
    plan: StepPlan
    table: PartitionTable
    receipts: Receipts
    started: dt.datetime
    unfinished_sources: Callable[[], list[str]]
    force: bool

    def opened(self, rows: int) -> None:
        """Report that it began, with what users should know.

        Args:
            rows: the number of rows of its input, as far as it is known.
        """
        observer, name = self.run.observer, self.step.name
        observer.step_started(name, self.step.operator.name, rows, self._rows_found)
        for note in self.step.notes:
            observer.message(f"{name}: {note}")
        if any(model.spec.mode == "batch" for model in self.step.models.values()) and self.table.unfinished:
            observer.message(
                f"{name}: its calls are sent in batches, which may take up to a day. You can stop (Ctrl-C) and run again "
                "at any time: the results of submitted batches are collected, and nothing is sent twice"
            )

    def advanced(self, rows: int, usage: Usage, waited_for: str, *, all_rows: bool) -> LiveStep:
        """Report how far it is; returns what it is doing, for others to read.

        Args:
            rows: the number of rows of its input, as far as it is known.
            all_rows: whether these are all rows: only then is it known why it runs.
        """
        beat = read_heartbeats(self.receipts.folder, owner_of(self.run.run_id, self.step.name))
        if beat.total:
            done, total = beat.done, beat.total
        else:
            done, total = min(rows, self._rows_found + beat.done), rows
        self.run.observer.step_advanced(self.step.name, done, total, beat.note)
        return LiveStep(
            step=self.step.name,
            op=self.step.operator.name,
            state="running",
            base_key=self.plan.base_key,
            rows=rows,
            done=done,
            total=total,
            rejected=self.table.rows_rejected,
            usage=usage,
            note=beat.note,
            waited_for=waited_for,
            started_at=self.started,
            why=tuple(self._why) if all_rows else (),
        )

    def record(
        self,
        outcome: Literal["ran", "resumed", "failed", "stopped"],
        rows: int,
        rows_out: int,
        usage: Usage,
        waited_for: str,
    ) -> StepRun:
        """Its record in the run; see `record_of`."""
        notes = [*self.step.notes, *self.notes]
        receipts = self.table.receipts()
        reasons: tuple[CountedCause, ...] = ()
        places: dict[str, tuple[Place, ...]] = {}
        if outcome in ("failed", "stopped"):  # it has no outputs, which have the rejects of others
            with suppress(RegistryError, OSError):  # they are only shown
                reasons = reasons_of(self.run.registry, self.rejects)
                places = self._rejected_rows()
        return record_of(
            self.plan, outcome, rows, rows_out, receipts, usage, self.started, waited_for, self._why, notes, reasons, places
        )

    def _rejected_rows(self) -> dict[str, tuple[Place, ...]]:
        """Some rejected rows by cause; none while it is not known which versions its inputs are."""
        step, run = self.step, self.run
        inputs = resolve_inputs(run.pipeline, step, run.available, run.registry)
        if any(len(inputs[port]) < len(links) for port, links in step.inputs.items()):
            return {}
        port = step.operator.streamed
        starts = [0, *accumulate(version.rows for version in inputs.get(port or "", ()))]
        placed = (
            (starts[number] + part.first, each) for number, parts in enumerate(self.table.placed()) for part, each in parts
        )
        return examples(run.registry.store, placed, step.operator, inputs)

    def too_many_rejects(self, rows: int) -> str:
        """The error for more rejects than the step allows, with the most frequent reasons. Raises RegistryError, OSError."""
        reasons = reasons_of(self.run.registry, self.rejects)
        listed = "; ".join(f"{each.times:,} x {each.text}" for each in reasons)
        rejected = self.table.rows_rejected
        kept = "Good answers are kept. " if self.step.models else ""
        return (
            f"{rejected:,} of {counted(rows, 'row')} {'was' if rejected == 1 else 'were'} rejected, and max_reject_ratio "
            f"allows {self.step.max_reject_ratio:.0%}: {listed}. {kept}Fix the cause, or raise the step's "
            "max_reject_ratio"
        )

    @property
    def rejects(self) -> list[SideObject]:
        """The objects with its rejects."""
        return [receipt.rejects for receipt in self.table.receipts() if receipt.rejects]

    @property
    def notes(self) -> list[str]:
        """What its operator noted in this run, each note once."""
        return list(dict.fromkeys(note for receipt in self.table.fresh for note in receipt.notes))

    @property
    def _rows_found(self) -> int:
        """The number of rows that earlier runs finished."""
        return sum(receipt.rows for receipt in self.table.found)

    @cached_property
    def _why(self) -> list[str]:
        """Why it runs: see engine/planning/explain.py."""
        found, run = len(self.table.found), self.run
        made_now = self.unfinished_sources()
        if made_now and not self.force and not found:
            return [f"input rows come from {name}, which was running" for name in made_now]
        now = run.keyed(self.step, self.plan.review)
        plan = replace(now, status="RESUME" if found else "RUN", done=found, total=self.table.partitions)
        try:
            return explain(run.pipeline, self.step, plan, run.registry, forced=self.force, retry_rejects=run.retry_rejects)
        except (RegistryError, OSError) as error:  # only for display
            return [f"unknown: {error}"]
