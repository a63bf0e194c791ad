"""The command reference, from the command line's own parser: the same texts as `engine COMMAND --help`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from docs.generate.markdown import code, generated, table
from engine.cli.app import app

_INTRODUCTION = """
`P` is a pipeline file, or the name of a pipeline that comes with the package. `NAME@V` is version V of a dataset, model,
calibration or report; `NAME` alone is the latest. Options of `engine` itself go before the command.

Exit codes: 0 success, 1 a step failed or something is damaged, 2 the pipeline or the arguments are wrong, 3 the run
waits for reviews, 130 interrupted.
Results go to stdout, progress and messages to stderr.
"""


def page() -> str:
    """The page as Markdown."""
    group: Any = typer.main.get_command(app)
    with group.make_context("engine", [], resilient_parsing=True) as context:
        parts = [generated("Commands", "engine/cli"), _INTRODUCTION, f"## engine\n\n{_options(group, context)}"]
        for name in group.list_commands(context):
            parts += _commands(group.get_command(context, name), name, context, "## engine")
    return "\n".join(parts)


def _commands(command: Any, name: str, above: Any, head: str) -> Iterator[str]:
    """A command, and the commands of a group."""
    with command.make_context(name, [], parent=above, resilient_parsing=True) as context:
        usage = command.get_usage(context).removeprefix("Usage: ")
        yield f"{head} {name}\n\n```text\n{usage}\n```\n\n{_text(command)}\n\n{_options(command, context)}"
        for inner in command.list_commands(context) if hasattr(command, "list_commands") else ():
            yield from _commands(command.get_command(context, inner), inner, context, f"#{head} {name}")


def _text(command: Any) -> str:
    return (command.help or "").strip()


def _options(command: Any, context: Any) -> str:
    records = (parameter.get_help_record(context) for parameter in command.get_params(context))
    rows = [[code(names), meaning.strip()] for names, meaning in filter(None, records) if "--help" not in names]
    return table(["argument or option", "meaning"], rows) if rows else ""
