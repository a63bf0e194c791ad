"""Commands on a pipeline: check, plan, run, probe."""

from __future__ import annotations

from typing import Annotated

import typer

from engine.cli.commands.shared import (
    Context,
    JsonOption,
    checked_pipeline,
    named_registry,
    out,
    print_json,
    say,
)
from engine.cli.opening import chosen_steps, planned
from registry.counted import counted

EXIT_CODES = {"succeeded": 0, "failed": 1, "waiting": 3, "interrupted": 130}
"""The exit code of a run, by its state."""

_SHOWN = {"True": "yes", "False": "no", "None": "unknown"}

PipelineArg = Annotated[
    str, typer.Argument(metavar="PIPELINE", help="A YAML file, or the name of a pipeline that comes with the engine.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Override one of the pipeline's params. Repeatable.")
]
MatrixOption = Annotated[
    list[str] | None,
    typer.Option(
        "--matrix",
        metavar="NAME=VALUE,VALUE",
        help="Run a variant for each of these values of a param. Repeatable: then one for each combination of values.",
    ),
]
SelectOption = Annotated[
    list[str] | None,
    typer.Option(
        "--select", metavar="STEP", help="Only this step (VARIANT/STEP: of one variant) and the steps it needs. Repeatable."
    ),
]
RetryOption = Annotated[
    bool,
    typer.Option("--retry-rejects", help="Call the models again for rejected rows only, including those of finished steps."),
]
ForceOption = Annotated[
    list[str] | None, typer.Option("--force", metavar="STEP", help="Run this step even if it is up to date. Repeatable.")
]


def check(
    context: Context, pipeline: PipelineArg, set_: SetOption = None, matrix: MatrixOption = None, json: JsonOption = False
) -> None:
    """Check a pipeline without running it. Covers keys, types, parameters, files and models."""
    from engine.pipeline.served_models import missing_programs
    from engine.printable import harmless

    checked = checked_pipeline(context, pipeline, set_, matrix)
    for model, why in missing_programs(checked.steps.values()).items():
        say(f"note: the server of model {model!r} cannot be started on this machine: {why}")
    if json:
        steps, variants = list(checked.steps), list(checked.variants)
        print_json({"pipeline": checked.spec.name, "steps": steps, "problems": [], "variants": variants})
    else:
        found = f"{counted(checked.steps, 'step')}, {counted(checked.sources, 'external dataset')}"
        found += f", in {counted(checked.variants, 'variant')} of a matrix" if checked.variants else ""
        print(harmless(f"{pipeline} is fine: {found}."))


def plan(
    context: Context,
    pipeline: PipelineArg,
    set_: SetOption = None,
    matrix: MatrixOption = None,
    select: SelectOption = None,
    force: ForceOption = None,
    why: Annotated[bool, typer.Option("--why", help="Explain what changed, for each step that would run.")] = False,
    json: JsonOption = False,
) -> None:
    """Show what a run would do. Lists the steps that would run and their rows, with upper bounds of calls, tokens and price.

    Where a preview or an earlier version shows what to expect, the forecast is listed, too.
    """
    from engine.cli.plan_view import plan_rows, print_plan

    checked = checked_pipeline(context, pipeline, set_, matrix)
    chosen, forced = chosen_steps(checked, select, "--select "), chosen_steps(checked, force, "--force ")
    registry = named_registry(context)
    made = planned(checked, registry, chosen, forced, why)
    expected = None
    if made.to_run:
        from engine.previewing.forecast import forecast
        from engine.previewing.observed import recall

        expected = forecast(checked, made, recall(registry, checked.spec.name), registry)
    if json:
        print_json(plan_rows(made, expected))
        return
    print_plan(made, out())
    if expected:
        from engine.cli.forecast_view import print_forecast

        print_forecast(expected, out())


def run(
    context: Context,
    pipeline: PipelineArg,
    set_: SetOption = None,
    matrix: MatrixOption = None,
    select: SelectOption = None,
    force: ForceOption = None,
    retry_rejects: RetryOption = False,
    latest: Annotated[
        bool, typer.Option("--latest", help="Make the new versions the latest even if --set changed parameters.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Run a pipeline. Steps that are up to date are not run again. If people have to review rows first, the run ends with exit
    code 3, and the next one continues when they have."""
    from engine.cli.output import stderr_console
    from engine.cli.progress import progress_on
    from engine.cli.run_view import print_run, run_document
    from engine.running.run import run as run_pipeline
    from registry import Report

    checked = checked_pipeline(context, pipeline, set_, matrix, keys=True)
    chosen, forced = chosen_steps(checked, select, "--select "), chosen_steps(checked, force, "--force ")
    registry = named_registry(context)
    with progress_on(stderr_console()) as observer:
        result = run_pipeline(
            checked, registry, observer, select=chosen, force=forced, retry_rejects=retry_rejects, move_latest=latest
        )
    if json:
        print_json(run_document(result))
    else:
        made = [manifest for step in result.steps for manifest in step.outputs]
        reports = [next(registry.records(str(each.ref), Report)) for each in made if each.kind == Report.registry_kind]
        print_run(result, reports, context.obj.registry, out())
    if context.obj.debug and result.trace:
        say(result.trace)
    if result.state != "succeeded":
        raise typer.Exit(EXIT_CODES[result.state])


def probe(
    context: Context, pipeline: PipelineArg, set_: SetOption = None, matrix: MatrixOption = None, json: JsonOption = False
) -> None:
    """Find out what the models' servers can do. Sends a few tiny requests to each, and starts those that a run would start."""
    from engine.cli.output import grid
    from engine.llm.types.capability import MEANING
    from engine.model_servers.requirements import ask_server, capability_rows
    from engine.model_servers.server_here import server_here

    checked = checked_pipeline(context, pipeline, set_, matrix, keys=True)
    registry = named_registry(context)
    models = {name: spec for name, spec in checked.spec.models.items() if spec.remote}
    for name in [name for name, spec in models.items() if spec.provider == "anthropic"]:
        say(f"model {name!r} is not probed: docs/model-calls.md lists what Anthropic's API can do")
        del models[name]
    used = {step.spec.models.get(role, role): model for step in checked.steps.values() for role, model in step.models.items()}
    for name in [name for name, spec in models.items() if spec.serve is not None and name not in used]:
        say(f"model {name!r} is not probed: no step uses it, so no server is started for it")
        del models[name]
    found = []
    for name, spec in models.items():
        if spec.serve is None:
            found.append(ask_server(spec, registry, recheck_all=True).capabilities)
            continue
        say(f"starting a server of model {name!r}: {spec.serve.shown}")
        with server_here(name, used[name], registry) as address:
            found.append(ask_server(spec, registry, recheck_all=True, at=address).capabilities)
    rows = capability_rows(list(models), found)
    if json:
        print_json(rows)
        return
    table = [[row["model"], *[_SHOWN[str(row[capability])] for capability in MEANING]] for row in rows]
    out().print(grid(["model", *MEANING], table) if rows else "This pipeline has no model to probe.")
    for capability, meaning in MEANING.items():
        if any(row[capability] is not True for row in rows):
            out().print(f"{capability}: {meaning}", soft_wrap=True)
