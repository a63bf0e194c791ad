"""Opens what a user names, for the commands and for `engine.run` and its kin: a registry, a pipeline, steps of it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Set
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import PipelineError, Problem, did_you_mean
from engine.spec.variant_names import split_name

if TYPE_CHECKING:
    from engine.pipeline.graph import Pipeline
    from engine.planning.results import Plan
    from engine.planning.sources import Rows
    from engine.spec.matrix import MatrixOptions
    from registry import Registry

DEFAULT_REGISTRY = ".engine"
"""The folder of the registry when the user names none."""


def named_registry(location: str, other: str) -> Registry:
    """The registry at a place, which may not exist yet.

    Args:
        location: a folder or a URL.
        other: how the user names another registry, for errors.
    """
    from registry import Registry

    if Path(location).exists() and not Path(location).is_dir():
        what = f"the registry {location} is a file, not a folder"
        raise PipelineError([Problem(what, hint=f"choose another one: {other}")])
    return Registry(location)


def existing_registry(location: str, other: str) -> Registry:
    """The same; raises PipelineError if there is none."""
    registry = named_registry(location, other)
    if not registry.exists:
        hint = f"run a pipeline first, or choose another one: {other}"
        inside = Path(location, DEFAULT_REGISTRY)
        if "://" not in location and inside.is_dir():
            hint = f"did you mean {str(inside)!r}?"
        raise PipelineError([Problem(f"there is no registry at {location}", hint=hint)])
    return registry


def checked_pipeline(
    name: str,
    settings: list[str] | Mapping[str, Any] | None,
    location: str,
    other: str,
    *,
    matrix: MatrixOptions = None,
    keys: bool = False,
) -> Pipeline:
    """A pipeline, checked; with `keys`, environment variables with API keys must be set.

    Args:
        name: its file, or the name of one that comes with the engine.
        settings, matrix: see `engine.pipeline.check.check`.
        location, other: as for `named_registry`; the registry may not exist.
    """
    from engine.pipeline.check import check

    file = _find_pipeline(name)
    if _may_exist(location) and (registry := named_registry(location, other)).exists:
        with registry.look_ups() as look_ups:
            return check(file, settings, look_ups, matrix=matrix, keys=keys)
    return check(file, settings, matrix=matrix, keys=keys)


def unused_exclusions(checked: Pipeline) -> str | None:
    """A note for the user if the exclusion list names no dataset that this pipeline reads or writes."""
    own = {f"{checked.spec.name}/{source}" for source in checked.sources}
    own |= {checked.output_name(step.name, output) for step in checked.steps.values() for output in step.operator.outputs}
    own |= {link.name for step in checked.steps.values() for links in step.inputs.values() for link in links}
    if not checked.excluded or own & checked.excluded.keys():
        return None
    named = ", ".join(sorted(checked.excluded))
    return f"note: the exclusion list has no effect: it lists only rows of {named}, which this pipeline does not use"


def chosen_steps(checked: Pipeline, names: Iterable[str] | None, option: str) -> set[str]:
    """The steps that an option names, in all variants or in the one it names; raises PipelineError for an unknown one.

    Args:
        option: how the name is given, up to the name: `--select `.
    """
    variants: dict[str, set[str]] = {}
    for step in checked.steps:
        variants.setdefault(split_name(step)[1], set()).add(step)
    chosen: set[str] = set()
    for name in sorted(set(names or [])):
        if name not in checked.steps and name not in variants:
            hint = did_you_mean(name, [*variants, *checked.steps])
            raise PipelineError([Problem(f"{option}{name}: the pipeline has no such step", hint=hint)])
        chosen |= variants.get(name, {name})
    return chosen


def planned(checked: Pipeline, registry: Registry, chosen: Set[str], forced: Set[str], why: bool) -> Plan:
    """What a run would do; see `engine.planning.plan.make_plan` and `engine.previewing.prompt_bounds`."""
    from registry import Registry
    from registry.errors import CorruptError

    with tempfile.TemporaryDirectory(prefix="engine-plan-") as scratch:
        # A plan reads and types the sources. If there is no registry yet, they are written to a scratch folder.
        there = registry if registry.exists else Registry(scratch)
        needs: tuple[Rows, ...] = ("unread", "stored")
        for rows in needs:
            with suppress(CorruptError):  # the plan of some step needs rows that are not there
                return _planned(checked, there, chosen, forced, why, rows)
        return _planned(checked, there, chosen, forced, why, "read")


def _planned(checked: Pipeline, registry: Registry, chosen: Set[str], forced: Set[str], why: bool, rows: Rows) -> Plan:
    from engine.planning.plan import make_plan

    made = make_plan(checked, registry, select=set(chosen), force=set(forced), why=why, rows=rows)
    if any(step.calls for step in made.steps):
        from engine.previewing.prompt_bounds import with_prompts

        made = with_prompts(checked, made, registry, stored=rows != "unread")
    return made


def _may_exist(location: str) -> bool:
    """Whether there may be a registry, so that DuckDB has to be loaded to look."""
    return "://" in location or Path(location).exists()


def _find_pipeline(name: str) -> Path:
    """A file, or a pipeline that comes with the engine."""
    path = Path(name)
    if path.is_file():
        return path
    shipped = {Path(str(each)).stem: Path(str(each)) for each in files("pipelines").iterdir() if str(each).endswith(".yaml")}
    if name in shipped:
        return shipped[name]
    hint = did_you_mean(path.stem, shipped, f"the engine comes with these pipelines: {', '.join(sorted(shipped))}")
    raise PipelineError([Problem(f"there is no pipeline file {name}", hint=hint)])
