"""What commands share: the registry and the pipeline that the user means, and where output goes."""

from __future__ import annotations

import os
import sys
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.errors import PipelineError, Problem, did_you_mean

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
TimeoutOption = Annotated[
    float, typer.Option("--timeout", metavar="SECONDS", min=0.001, help="Stop a query that works for longer.")
]
MemoryOption = Annotated[
    str, typer.Option("--memory", metavar="SIZE", help="Stop a query that needs more: 4GB, or a part of the machine's.")
]


class Settings:
    """The options that stand before the command; the registry is a folder or a URL."""

    registry = ".engine"
    debug = False


def the_registry() -> Any:
    """The registry that the user named, whether it is there or not."""
    from registry import Registry

    if Path(Settings.registry).exists() and not Path(Settings.registry).is_dir():
        raise PipelineError(
            [
                Problem(
                    f"the registry {Settings.registry} is a file, not a folder", hint="name another: engine --registry DIR ..."
                )
            ]
        )
    return Registry(Settings.registry)


def existing_registry() -> Any:
    """The same, for commands that only read; raises PipelineError when nothing was ever written there."""
    registry = the_registry()
    if not registry.exists:
        raise PipelineError(
            [
                Problem(
                    f"there is no registry at {Settings.registry}",
                    hint="run a pipeline first, or name another: engine --registry DIR ...",
                )
            ]
        )
    return registry


def checked_pipeline(pipeline: str, settings: list[str] | None, *, keys: bool = False) -> Any:
    """The pipeline that a command was given, checked; `keys`: API keys must be there, too."""
    from engine.pipeline.check import check as check_file

    registry, file = the_registry(), _find_pipeline(pipeline)
    if registry.exists:
        with registry.session() as session:
            checked = check_file(file, settings, session, keys=keys)
    else:
        checked = check_file(file, settings, keys=keys)
    _note_exclusions(checked)
    return checked


def _note_exclusions(checked: Any) -> None:
    """An exclusion list is by dataset: say so when it names none that this pipeline makes or reads."""
    own = {f"{checked.spec.name}/{source}" for source in checked.sources}
    own |= {checked.output_name(step.name, output) for step in checked.steps.values() for output in step.operator.outputs}
    own |= {link.name for step in checked.steps.values() for links in step.inputs.values() for link in links}
    if checked.excluded and not own & checked.excluded.keys():
        named = ", ".join(sorted(checked.excluded))
        say(f"note: the exclusion list names rows of {named}, and no dataset of this pipeline: it leaves nothing out here")


def _find_pipeline(name: str) -> Path:
    """A file; or, for a bare name, a pipeline that comes with the engine."""
    path = Path(name)
    if path.is_file():
        return path
    shipped = {Path(str(each)).stem: Path(str(each)) for each in files("pipelines").iterdir() if str(each).endswith(".yaml")}
    if name in shipped:
        return shipped[name]
    hint = did_you_mean(path.stem, shipped, f"pipelines that come along, to be run by name: {', '.join(sorted(shipped))}")
    raise PipelineError([Problem(f"there is no file {name}", hint=hint)])


def chosen_steps(checked: Any, names: list[str] | None, option: str) -> set[str]:
    """Names of steps from an option; raises PipelineError for one that is not there."""
    for name in names or []:
        if name not in checked.steps:
            raise PipelineError([Problem(f"{option} {name}: no such step", hint=did_you_mean(name, checked.steps))])
    return set(names or [])


def out() -> Any:
    """Where results go."""
    from engine.cli.output import stdout_console

    return stdout_console()


def print_json(value: Any) -> None:
    """Print a result as JSON."""
    from engine.cli.output import as_json

    print(as_json(value))


def say(text: str) -> None:
    """Print what is no result."""
    from engine.cli.printable import harmless

    print(harmless(text), file=sys.stderr)


def end_query(timeout: float) -> None:
    """End this process: some functions of DuckDB cannot be interrupted. Nothing is lost, for a query writes nothing."""
    try:
        sys.stdout.flush()
        say(f"error: the query was stopped after {timeout:g} s. Allow more (--timeout SECONDS), or ask for less.")
    finally:
        os._exit(2)


def row_count(count: int) -> str:
    """`1 row`, `2 rows`."""
    return "1 row" if count == 1 else f"{count:,} rows"
