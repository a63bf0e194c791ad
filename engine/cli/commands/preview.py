"""The command `engine preview`."""

from __future__ import annotations

from typing import Annotated

import typer

from engine.cli.commands.pipelines import MatrixOption, PipelineArg, SetOption
from engine.cli.commands.shared import Context, JsonOption, checked_pipeline, named_registry, out, print_json, say
from engine.cli.opening import chosen_steps


def preview(
    context: Context,
    pipeline: PipelineArg,
    set_: SetOption = None,
    matrix: MatrixOption = None,
    rows: Annotated[int, typer.Option("-n", "--rows", metavar="N", min=1, help="How many rows of each source.")] = 10,
    step: Annotated[
        list[str] | None, typer.Option("--step", metavar="STEP", help="Only this step and the steps it needs. Repeatable.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Show all rows, prompts and answers in full.")] = False,
    json: JsonOption = False,
) -> None:
    """Try a pipeline on a few rows of each source. Shows rows, prompts and answers, and forecasts the run.

    The calls are real. Nothing is committed, but all answers are kept, and a run sends only the remaining calls. Steps that
    train are skipped. The rows are drawn at random by the pipeline's seed: the same ones each time.
    """
    from engine.cli.output import stderr_console
    from engine.cli.preview_view import preview_document, print_preview, print_step
    from engine.cli.progress import PlainProgress
    from engine.previewing.preview import preview as preview_pipeline

    checked = checked_pipeline(context, pipeline, set_, matrix, keys=True)
    chosen = chosen_steps(checked, step, "--step ")
    registry, console = named_registry(context), out()
    made = preview_pipeline(
        checked,
        registry,
        PlainProgress(stderr_console()),
        select=chosen,
        rows=rows,
        show=(lambda step: None) if json else (lambda step: print_step(step, rows, console, full=full)),
    )
    if json:
        print_json(preview_document(made))
    else:
        print_preview(made, console)
    if context.obj.debug and made.trace:
        say(made.trace)
    if made.state != "done":
        raise typer.Exit(130 if made.state == "interrupted" else 1)
