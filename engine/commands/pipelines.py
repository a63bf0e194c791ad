"""Commands on a pipeline: check, plan, run."""

from __future__ import annotations

from typing import Annotated

import typer

from engine.commands.shared import JsonOption, Settings, checked_pipeline, chosen_steps, out, print_json, say, the_registry

PipelineArg = Annotated[
    str, typer.Argument(metavar="PIPELINE", help="A YAML file, or the name of a pipeline that comes along.")
]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Override one of the file's params.")]
SelectOption = Annotated[list[str] | None, typer.Option("--select", metavar="STEP", help="Only this step and what it needs.")]
ForceOption = Annotated[list[str] | None, typer.Option("--force", metavar="STEP", help="Run this step though it hits.")]


def check(pipeline: PipelineArg, set_: SetOption = None, json: JsonOption = False) -> None:
    """Check a pipeline: its keys, types, parameters, files and models. Nothing is started."""
    checked = checked_pipeline(pipeline, set_)
    if json:
        print_json({"pipeline": checked.spec.name, "steps": list(checked.steps), "problems": []})
    else:
        out().print(f"{pipeline} is fine: {len(checked.steps)} steps, {len(checked.sources)} external datasets.")


def plan(
    pipeline: PipelineArg,
    set_: SetOption = None,
    select: SelectOption = None,
    force: ForceOption = None,
    why: Annotated[bool, typer.Option("--why", help="Say for each step that runs what changed.")] = False,
    json: JsonOption = False,
) -> None:
    """Show what a run would do: hits, steps to run, rows, and upper bounds of calls, tokens and price."""
    from engine.plan import make_plan
    from engine.report import plan_rows, print_plan

    checked = checked_pipeline(pipeline, set_)
    chosen, forced = chosen_steps(checked, select, "--select"), chosen_steps(checked, force, "--force")
    made = make_plan(checked, the_registry(), select=chosen, force=forced, why=why)
    if json:
        print_json(plan_rows(made))
    else:
        print_plan(made, out())


def run(
    pipeline: PipelineArg,
    set_: SetOption = None,
    select: SelectOption = None,
    force: ForceOption = None,
    json: JsonOption = False,
) -> None:
    """Run a pipeline; what is there already is not made again."""
    from engine.output import stderr_console
    from engine.progress import progress_on
    from engine.report import print_run, run_document
    from engine.run import run as run_pipeline

    checked = checked_pipeline(pipeline, set_)
    chosen, forced = chosen_steps(checked, select, "--select"), chosen_steps(checked, force, "--force")
    registry = the_registry()
    with progress_on(stderr_console()) as observer:
        result = run_pipeline(checked, registry, observer, select=chosen, force=forced)
    if json:
        print_json(run_document(result))
    else:
        print_run(result, str(Settings.registry), out())
    if Settings.debug and result.trace:
        say(result.trace)
    if result.state != "succeeded":
        raise typer.Exit(130 if result.state == "interrupted" else 1)
