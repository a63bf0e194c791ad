"""Shared by the commands: options, the user's registry and pipeline, and output."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.errors import PipelineError, Problem, did_you_mean

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
TimeoutOption = Annotated[
    float, typer.Option("--timeout", metavar="SECONDS", min=0.001, help="Stop a query that runs longer than this.")
]
MemoryOption = Annotated[
    str,
    typer.Option(
        "--memory", metavar="SIZE", help="Stop a query that needs more memory than this: 4GB, or 50% of the machine's."
    ),
]
VersionArg = Annotated[str, typer.Argument(metavar="NAME[@V]", help="A version; NAME alone means the latest.")]


@dataclass(frozen=True)
class Options:
    """The options before the command: the registry (a folder or a URL), and whether to show tracebacks."""

    registry: str
    debug: bool


class Context(typer.Context):
    """A command's context, which carries the options before the command."""

    obj: Options


def named_registry(context: Context) -> Any:
    """The registry that the user named, which may not exist yet."""
    from registry import Registry

    location = context.obj.registry
    if Path(location).exists() and not Path(location).is_dir():
        what = f"the registry {location} is a file, not a folder"
        raise PipelineError([Problem(what, hint="choose another one: engine --registry DIR ...")])
    return Registry(location)


def existing_registry(context: Context) -> Any:
    """The registry that the user named; raises PipelineError if there is none."""
    registry = named_registry(context)
    if not registry.exists:
        what = f"there is no registry at {context.obj.registry}"
        raise PipelineError([Problem(what, hint="run a pipeline first, or choose another one: engine --registry DIR ...")])
    return registry


def checked_pipeline(
    context: Context, pipeline: str, settings: list[str] | None, matrix: list[str] | None = None, *, keys: bool = False
) -> Any:
    """The pipeline that a command was given, checked; with `keys`, environment variables with API keys must be set."""
    from engine.pipeline.check import check

    file = _find_pipeline(pipeline)
    if _may_exist(context.obj.registry) and (registry := named_registry(context)).exists:
        with registry.session_when_needed() as session:
            checked = check(file, settings, session, matrix=matrix, keys=keys)
    else:
        checked = check(file, settings, matrix=matrix, keys=keys)
    _note_exclusions(checked)
    return checked


def _may_exist(location: str) -> bool:
    """Whether there may be a registry, so that DuckDB has to be loaded to look."""
    return "://" in location or Path(location).exists()


def _note_exclusions(checked: Any) -> None:
    """Warn if the exclusion list names no dataset that this pipeline reads or writes."""
    own = {f"{checked.spec.name}/{source}" for source in checked.sources}
    own |= {checked.output_name(step.name, output) for step in checked.steps.values() for output in step.operator.outputs}
    own |= {link.name for step in checked.steps.values() for links in step.inputs.values() for link in links}
    if checked.excluded and not own & checked.excluded.keys():
        named = ", ".join(sorted(checked.excluded))
        say(f"note: the exclusion list has no effect: it lists only rows of {named}, which this pipeline does not use")


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


def chosen_steps(checked: Any, names: list[str] | None, option: str) -> set[str]:
    """The steps that an option names, in all variants or in the one it names; raises PipelineError for an unknown one."""
    variants: dict[str, set[str]] = {}
    for step in checked.steps:
        variants.setdefault(step.rpartition("/")[2], set()).add(step)
    found: set[str] = set()
    for name in names or []:
        if name not in checked.steps and name not in variants:
            hint = did_you_mean(name, [*variants, *checked.steps])
            raise PipelineError([Problem(f"{option} {name}: the pipeline has no such step", hint=hint)])
        found |= variants.get(name, {name})
    return found


def out() -> Any:
    """The console for results."""
    from engine.cli.output import stdout_console

    return stdout_console()


def print_json(value: Any) -> None:
    """Print a result as JSON."""
    from engine.cli.output import as_json

    print(as_json(value))


def say(text: str) -> None:
    """Print a message to stderr, where it does not mix with results."""
    from engine.cli.printable import harmless

    print(harmless(text), file=sys.stderr)


def end_query(timeout: float) -> None:
    """End this process, because some functions of DuckDB cannot be interrupted. A query writes nothing, so nothing is lost."""
    try:
        sys.stdout.flush()
        say(f"error: the query was stopped after {timeout:g} s. Allow more time (--timeout SECONDS), or simplify it.")
    finally:
        os._exit(2)
