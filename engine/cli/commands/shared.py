"""Shared by the commands: options, the user's registry and pipeline, and output."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from engine.cli import opening

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


_OTHER = "engine --registry DIR ..."
"""How to name another registry."""


def named_registry(context: Context) -> Any:
    """The registry that the user named, which may not exist yet."""
    return opening.named_registry(context.obj.registry, _OTHER)


def existing_registry(context: Context) -> Any:
    """The registry that the user named; raises PipelineError if there is none."""
    return opening.existing_registry(context.obj.registry, _OTHER)


def checked_pipeline(
    context: Context, pipeline: str, settings: list[str] | None, matrix: list[str] | None = None, *, keys: bool = False
) -> Any:
    """The pipeline that a command was given, checked; with `keys`, environment variables with API keys must be set."""
    checked = opening.checked_pipeline(pipeline, settings, context.obj.registry, _OTHER, matrix=matrix, keys=keys)
    if note := opening.unused_exclusions(checked):
        say(note)
    return checked


def out() -> Any:
    """The console for results."""
    from engine.cli.output import stdout_console

    return stdout_console()


def print_json(value: Any) -> None:
    """Print a result as JSON."""
    from engine.plain_values import as_json

    print(as_json(value))


def say(text: str) -> None:
    """Print a message to stderr, where it does not mix with results."""
    from engine.printable import harmless

    print(harmless(text), file=sys.stderr)


def end_query(timeout: float) -> None:
    """End this process, because some functions of DuckDB cannot be interrupted. A query writes nothing, so nothing is lost."""
    try:
        sys.stdout.flush()
        say(f"error: the query was stopped after {timeout:g} s. Allow more time (--timeout SECONDS), or simplify it.")
    finally:
        os._exit(2)
