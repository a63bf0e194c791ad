"""Decides what may start: the steps whose inputs are there, and the partitions for which there are workers.

It is the only place of a run that waits, commits and talks to the user, in one thread. In each turn it opens steps, cuts what
has been finished into partitions, submits as many as there is room for, and takes what has come back.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping

from engine.errors import EngineError, message_of
from engine.jobs.live import forget_live, write_live
from engine.planning.inputs import barriers, link_key
from engine.running.interrupt import Interruption
from engine.running.run_state import FailedStepError, RunState
from engine.running.step_task import StepTask
from registry import RegistryError

_TURN_SECONDS = 0.5


class Scheduler:
    """The steps of a run.

    Args:
        run: the state that the steps share.
        tasks: the steps by name, in an executable order.
    """

    def __init__(self, run: RunState, tasks: Mapping[str, StepTask]) -> None:
        self._run = run
        self._tasks = tasks
        self._failures: list[FailedStepError] = []
        self._shown_at = time.monotonic()

    def run(self) -> list[FailedStepError]:
        """Run all steps; returns the failures, the first one first.

        When a step fails, those that depend on it are stopped, and no step takes a further partition. Partitions that are
        running finish; a step whose last one is among them is committed.

        Raises:
            KeyboardInterrupt: the user interrupted the run.
        """
        with Interruption(self._run.observer.message, lambda: any(task.is_paid for task in self._open)) as interruption:
            try:
                self._turns(interruption)
            except BaseException:
                for task in self._open:
                    task.stop()
                    # The first error is the one to report.
                    with contextlib.suppress(EngineError, RegistryError, OSError):
                        task.end_unfinished()
                with contextlib.suppress(EngineError, RegistryError, OSError):
                    self._run.record_hits()
                raise
            finally:
                forget_live(self._run.registry.catalog.runs.folder, self._run.run_id)
        return self._failures

    def _turns(self, interruption: Interruption) -> None:
        while any(task.state != "ended" for task in self._tasks.values()):
            interrupted = interruption.came
            if interrupted:
                for task in self._open:
                    task.halt()
            self._run.servers.watch({task.name for task in self._open if task.is_running})
            # A step whose last partition has come is committed first.
            worked = [self._attempt(task) for task in self._tasks.values()]
            if interrupted and not any(task.is_paid for task in self._open):
                break
            self._record_hits()
            self._receive(0.0 if any(worked) else _TURN_SECONDS)
            self._show_progress()
        if interruption.came and not self._failures and not all(task.succeeded for task in self._tasks.values()):
            raise KeyboardInterrupt

    def _record_hits(self) -> None:
        """Record the hits of a turn. If that fails, the run ends like one whose step fails."""
        first = self._run.hits[0].step.full_step if self._run.hits else ""
        try:
            self._run.record_hits()
        except (EngineError, RegistryError, OSError) as error:
            self._failures.append(FailedStepError(first, message_of(error)))
            self._fail(self._tasks[first], self._failures[-1])

    @property
    def _open(self) -> list[StepTask]:
        return [task for task in self._tasks.values() if task.state == "open"]

    def _attempt(self, task: StepTask) -> bool:
        """Do for a step what can be done now without waiting; returns whether there was anything."""
        try:
            return self._step(task)
        except FailedStepError as failure:
            self._fail(task, failure)
        except (EngineError, RegistryError, OSError) as error:
            self._fail(task, FailedStepError(task.name, message_of(error)))
        return True

    def _step(self, task: StepTask) -> bool:
        if task.state == "waiting":
            return self._open_or_end(task)
        if task.state == "ended":
            return False
        if not task.stopping:
            self._run.servers.check(task.step)
        task.cut()
        given = task.submit()
        if task.is_made and not task.failure:
            task.conclude()
            return True
        if task.stopping and not task.is_running:
            if failure := task.end_unfinished():
                self._failures.append(failure)
            return True
        return given or task.has_more_to_cut

    def _open_or_end(self, task: StepTask) -> bool:
        """Open a step if what it needs is there; end it if that will never be."""
        before = [self._tasks[link.name] for link in task.step.links if link.kind == "step"]
        if task.failure:
            self._failures.append(task.failure)
        if self._stopped or any(each.state == "ended" and not each.succeeded for each in before):
            task.end_unreached()
            return True
        missing = [link for link in task.step.links if link.kind == "step" and not self._tasks[link.name].succeeded]
        complete = barriers(self._run.pipeline, task.step)
        sources = {}
        for link in missing:
            source = self._tasks[link.name]
            if link_key(link) in complete or not source.can_feed(link.output):
                task.waited_for = link.name
                return False
            sources[link_key(link)] = source
        task.open(sources)
        return True

    @property
    def _stopped(self) -> bool:
        return any(task.stopping for task in self._tasks.values())

    def _receive(self, seconds: float) -> None:
        """Take the next result, if one comes within that time."""
        if not self._open:
            return
        asked = time.monotonic()
        found = self._run.executor.next(seconds)
        for death in self._run.executor.deaths():
            why = " because the machine was out of memory" if death.out_of_memory else ""
            self._run.observer.message(
                f"{', '.join(death.steps)}: a worker process died{why}. Another one takes over its unfinished rows"
            )
        if found is None:
            if not any(task.is_running for task in self._open):
                # The remaining partitions are claimed by another run, or wait for resources.
                time.sleep(max(0.0, seconds - (time.monotonic() - asked)))
            return
        task = self._tasks[found.step]
        try:
            task.receive(found.result)
        except FailedStepError as failure:
            self._fail(task, failure)
        except (EngineError, RegistryError, OSError) as error:
            self._fail(task, FailedStepError(task.name, message_of(error)))

    def _fail(self, task: StepTask, failure: FailedStepError) -> None:
        task.fail(failure)
        task.halt()
        after = self._after(task)
        for other in self._open:
            if other.name in after:
                other.halt()
            other.stop()

    def _after(self, task: StepTask) -> set[str]:
        """The steps that read what a step makes, directly or not; `_tasks` is in an executable order."""
        found = {task.name}
        for name, other in self._tasks.items():
            if any(link.kind == "step" and link.name in found for link in other.step.links):
                found.add(name)
        return found - {task.name}

    def _show_progress(self) -> None:
        if time.monotonic() - self._shown_at >= _TURN_SECONDS:
            self._shown_at = time.monotonic()
            live = tuple(task.show_progress() for task in self._tasks.values() if task.state != "ended")
            write_live(self._run.registry.catalog.runs.folder, self._run.run_id, live)
