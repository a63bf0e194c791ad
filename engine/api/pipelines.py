"""`engine.run`, `engine.plan` and `engine.check`: what the commands of these names do, from Python."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.api.code_changes import refuse_changed_code, remember_code
from engine.api.open_registry import OTHER, OpenRegistry, registry_location
from engine.api.run_result import Run, RunInterrupted
from engine.cli import opening
from engine.spec.matrix import Matrix
from registry import Registry

if TYPE_CHECKING:
    from rich.console import Console

    from engine.pipeline.graph import Pipeline
    from engine.running.result import RunResult

Where = str | Path | OpenRegistry | None
"""A registry: a folder, a URL, what `engine.open` returned, or None for ENGINE_REGISTRY or `.engine`."""

Steps = str | Iterable[str] | None
"""Names of steps; one step may be given as a text."""


@dataclass(frozen=True)
class Checked:
    """A pipeline without mistakes.

    Attributes:
        name: the pipeline's name.
        file: the YAML.
        datasets: the names of its external datasets.
        steps: the names of its steps, in the order in which they can run.
    """

    name: str
    file: Path
    datasets: tuple[str, ...]
    steps: tuple[str, ...]


def check(
    pipeline: str | Path, *, set: Mapping[str, Any] | None = None, matrix: Matrix | None = None, registry: Where = None
) -> Checked:
    """Check a pipeline without running it, like `engine check`: keys, types, parameters, files and models.

    Args:
        pipeline: a YAML file, or the name of a pipeline that comes with the engine.
        set: values that override the pipeline's `params`.
        matrix: lists of values by name, which override the pipeline's `matrix`.
        registry: where datasets and models of the registry are looked up.

    Raises:
        PipelineError: with all problems in `problems`, each with its place in the file.
    """
    checked, _ = _checked(pipeline, set, matrix, registry)
    return Checked(checked.spec.name, checked.file, tuple(checked.sources), tuple(checked.steps))


def plan(
    pipeline: str | Path,
    *,
    set: Mapping[str, Any] | None = None,
    matrix: Matrix | None = None,
    select: Steps = None,
    force: Steps = None,
    why: bool = False,
    registry: Where = None,
) -> list[dict[str, Any]]:
    """What a run would do, a row for each source and step: the data of `engine plan --json`. Nothing is run.

    Args:
        pipeline, set, matrix, select, force, registry: as for `run`.
        why: explain what changed, for each step that would run.

    Raises:
        PipelineError: the pipeline or an argument is wrong.
    """
    from engine.cli.plan_view import plan_rows
    from engine.previewing.forecast import forecast
    from engine.previewing.observed import recall

    checked, (_, opened) = _checked(pipeline, set, matrix, registry)
    made = opening.planned(checked, opened, _chosen(checked, select, "select"), _chosen(checked, force, "force"), why)
    return plan_rows(made, forecast(checked, made, recall(opened, checked.spec.name), opened))


def run(
    pipeline: str | Path,
    *,
    set: Mapping[str, Any] | None = None,
    matrix: Matrix | None = None,
    select: Steps = None,
    force: Steps = None,
    retry_rejects: bool = False,
    latest: bool = False,
    registry: Where = None,
    quiet: bool = False,
    raise_on_failure: bool = True,
) -> Run:
    """Run a pipeline, like `engine run`. Steps that are up to date are not run again.

    It may be called from a script, from a notebook or another running event loop (which waits meanwhile), and from any
    thread; runs of one process come one after another. A Ray that the program has started is used, and is left running.

    Args:
        pipeline: a YAML file, or the name of a pipeline that comes with the engine.
        set: values that override the pipeline's `params`.
        matrix: lists of values by name, which override the pipeline's `matrix`.
        select: only these steps and the steps that they need.
        force: run these steps even if they are up to date.
        retry_rejects: call the models again for rejected rows only, including those of finished steps.
        latest: make the new versions the latest even if `set` changed parameters.
        registry: the registry for the results.
        quiet: show no progress. Otherwise it goes to stderr.
        raise_on_failure: raise if a step fails or the user interrupts the run; if False, look at `state`. A run that waits for
            reviews is not a failure.

    Raises:
        PipelineError: the pipeline or an argument is wrong; nothing was started.
        RunError: a step failed. `error.run` is the run, with the outputs of the steps that finished.
        RunInterrupted: the user interrupted the run. It is a KeyboardInterrupt, and has `run` as well.
    """
    from engine.cli.output import stderr_console
    from engine.cli.progress import PlainProgress, progress_on
    from engine.running.run import run as run_pipeline

    checked, (where, opened) = _checked(pipeline, set, matrix, registry, keys=True)
    chosen, forced = _chosen(checked, select, "select"), _chosen(checked, force, "force")
    console = stderr_console()
    console.quiet = quiet
    if note := opening.unused_exclusions(checked):
        console.print(note, soft_wrap=True)
    # Jupyter pretends to be a terminal (FORCE_COLOR), but cannot overwrite what it has printed.
    lines = quiet or not sys.stderr.isatty()
    with _turn(console), PlainProgress(console) if lines else progress_on(console) as observer:
        result = run_pipeline(
            checked, opened, observer, select={*chosen}, force={*forced}, retry_rejects=retry_rejects, move_latest=latest
        )
    return _ended(Run.of(result, OpenRegistry(where, opened), opened), result, raise_on_failure)


_running = threading.Lock()


@contextmanager
def _turn(console: Console) -> Iterator[None]:
    """Let the runs of this process come one after another: they would share its Ray, which the first one to end stops."""
    if not _running.acquire(blocking=False):
        console.print("waiting for another run of this process")
        _running.acquire()
    try:
        yield
    finally:
        _running.release()


def _ended(run: Run, result: RunResult, raise_on_failure: bool) -> Run:
    if raise_on_failure and result.state == "interrupted":
        raise RunInterrupted(run)
    if raise_on_failure:
        run.raise_for_failure()
    return run


def _checked(
    pipeline: str | Path, settings: Mapping[str, Any] | None, matrix: Matrix | None, registry: Where, *, keys: bool = False
) -> tuple[Pipeline, tuple[str, Registry]]:
    """The pipeline, and the registry as the user named it and opened."""
    refuse_changed_code()
    where = registry.location if isinstance(registry, OpenRegistry) else registry_location(registry)
    opened = registry._registry if isinstance(registry, OpenRegistry) else opening.named_registry(where, OTHER)
    try:
        return opening.checked_pipeline(str(pipeline), settings, opened.location, OTHER, matrix=matrix, keys=keys), (
            where,
            opened,
        )
    finally:
        remember_code()


def _chosen(checked: Pipeline, names: Steps, option: str) -> AbstractSet[str]:
    return frozenset(opening.chosen_steps(checked, [names] if isinstance(names, str) else names, f"{option}="))
