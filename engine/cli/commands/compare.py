"""The command `compare`: versions, runs or variants side by side, with intervals for their differences."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from engine.cli.commands.shared import Context, JsonOption, existing_registry, out, print_json, say
from engine.errors import PipelineError, Problem


def compare(
    context: Context,
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="A B...",
            help="NAME, NAME@V, a run id, PIPELINE/VARIANT such as demo/lr=1e-05, or PIPELINE for all its variants.",
        ),
    ],
    field: Annotated[
        list[str] | None,
        typer.Option(
            "--field",
            metavar="FIELD",
            help="Compare this number or boolean of the rows. FIELD=VALUE compares the share of rows with a value. Repeatable.",
        ),
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option("--by", metavar="FIELD", help="Pair rows by this field, not by their source rows. Repeatable."),
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", metavar="FILE.png", help="Draw the differences as a chart.")] = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE.md", help="Write a report, with the chart beside it.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Compare versions, runs or variants with the first one. Shows metrics side by side. Pairs rows by their source rows, and
    gives differences with intervals that are clustered by source row."""
    from engine.cli.output import grid
    from engine.comparison.compare import compare as compare_sides
    from engine.comparison.report import Table, content, markdown

    if plot and plot.suffix.lower() != ".png":
        raise PipelineError([Problem(f"--plot {plot}: charts are PNG files", hint="choose a name that ends with .png")])
    if report and report.suffix.lower() != ".md":
        raise PipelineError([Problem(f"--report {report}: reports are Markdown", hint="choose a name that ends with .md")])
    drawing = plot or (report.with_suffix(".png") if report else None)
    if drawing:
        _needs_matplotlib()
    found = compare_sides(existing_registry(context), targets, fields=field or (), by=by or ())
    if drawing:
        from engine.comparison.report import save_chart

        save_chart(found, drawing)
    if report:
        beside = None if drawing is None else drawing.name if drawing.parent == report.parent else str(drawing.absolute())
        report.write_text(markdown(found, beside))
    if json:
        print_json(asdict(found))
    else:
        console = out()
        for each in content(found):
            if isinstance(each, Table):
                console.print(grid(each.columns, each.rows))
            else:
                text = each.removeprefix("## ")
                console.print(f"\n{text}" if text != each else text, soft_wrap=True)
    for written in filter(None, (drawing, report)):
        say(f"wrote {written}")


def _needs_matplotlib() -> None:
    from engine.pipeline.packages import how_to_install, missing

    if absent := missing(["matplotlib"]):
        raise PipelineError(
            [Problem("a chart needs the package matplotlib, which is not installed", hint=how_to_install(absent))]
        )
