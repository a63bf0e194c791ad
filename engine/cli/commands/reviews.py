"""The commands `reviews ls`, `reviews export` and `reviews import`: what waits for people, and their decisions as files."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.commands.shared import Context, JsonOption, existing_registry, out, print_json
from engine.cli.invocation import propose
from engine.printable import row_count
from registry.counted import counted

if TYPE_CHECKING:
    from engine.reviewing.incoming import Imported
    from engine.reviewing.open_review import OpenReview

app = typer.Typer(
    name="reviews",
    help="List rows that wait for reviewers; export and import decisions. `engine ui` has the page for reviewers.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


class Format(StrEnum):
    """The formats of files with decisions."""

    jsonl = "jsonl"
    label_studio = "label-studio"


ReviewArg = Annotated[str, typer.Argument(metavar="REVIEW", help="The dataset that the review's step makes: PIPELINE/STEP.")]
FileArg = Annotated[Path, typer.Argument(metavar="FILE", help="A file.")]


@app.command()
def ls(context: Context, json: JsonOption = False) -> None:
    """List reviews: how many rows are decided, and how many more are needed."""
    from engine.cli.output import grid
    from engine.reviewing.open_review import open_reviews

    found = [_summary(each) for each in open_reviews(existing_registry(context))]
    if json:
        print_json(found)
        return
    if not found:
        out().print("No run has reached a review yet.")
        return
    rows = [[each["review"], each["rows"], each["decided"], each["needed"], _state(each), each["file"]] for each in found]
    out().print(grid(["review", "rows", "decided", "needed", "", "pipeline file"], rows, counts=True))


@app.command(name="export")
def export_(
    context: Context,
    review: ReviewArg,
    file: FileArg,
    to: Annotated[Format, typer.Option("--to", help="The format.")] = Format.jsonl,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
) -> None:
    """Write a review into a file: all decisions, and the rows that wait, to be filled in. `engine reviews import` reads it
    again. With --to label-studio, the file has the rows as tasks, and the labelling interface is written beside it."""
    from engine.reviewing.files import write_lines, write_tasks
    from engine.reviewing.open_review import open_review

    found = open_review(existing_registry(context), review)
    if to is Format.jsonl:
        count = write_lines(found, file, overwrite=overwrite)
        waiting = len(found.undecided())
        out().print(f"{file}: {counted(count - waiting, 'decision')}, and {row_count(waiting)} to fill in", soft_wrap=True)
        return
    beside = write_tasks(found, file, overwrite=overwrite)
    out().print(f"{file}: {counted(len(found.rows), 'task')}. The labelling interface is in {beside}", soft_wrap=True)


@app.command(name="import")
def import_(
    context: Context,
    file: FileArg,
    from_: Annotated[Format, typer.Option("--from", help="The format.")] = Format.jsonl,
    review: Annotated[
        str | None, typer.Option("--review", metavar="REVIEW", help="The review, if the file does not name it.")
    ] = None,
    reviewer: Annotated[
        str | None, typer.Option("--reviewer", metavar="NAME", help="The reviewer, if the file does not name one.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Import the decisions in a file: all of them, or none if one of them is wrong."""
    from engine.reviewing.files import read_file
    from engine.reviewing.incoming import import_decisions

    registry = existing_registry(context)
    given, problems = read_file(registry, file, from_.value)
    done = import_decisions(registry, given, problems, queue=review, reviewer=reviewer)
    if json:
        print_json({**_summary(done.review), "added": done.added, "known": done.known, "without_verdict": done.empty})
        return
    out().print(_said(done), soft_wrap=True)
    if not done.review.progress.missing:
        out().print(f"Enough rows are decided. To continue:\n  {propose('run', done.review.queue.file)}", soft_wrap=True)


def _summary(review: OpenReview) -> dict[str, Any]:
    queue = review.queue
    head = {"review": queue.name, **review.progress.count(), "decisions": len(review.decisions)}
    return {**head, "pipeline": queue.pipeline, "step": queue.step, "file": queue.file, "asked_at": queue.asked_at}


def _state(summary: dict[str, Any]) -> str:
    return f"waits for {summary['missing']:,} more" if summary["missing"] else "enough are decided"


def _said(done: Imported) -> str:
    parts = [f"{counted(done.added, 'decision')} imported"]
    parts += [f"{done.known:,} already known"] if done.known else []
    parts += [f"{done.empty:,} without a verdict"] if done.empty else []
    parts += [f"{done.elsewhere:,} about rows that are not in the review now; they are kept"] if done.elsewhere else []
    state = done.review.progress
    rows = f"{state.decided:,} of {row_count(state.rows)} decided, {state.missing:,} more needed"
    return f"{done.review.queue.name}: {', '.join(parts)}. {rows}."
