"""The command line: hands arguments to commands, turns errors into messages and exit codes.

Progress goes to stderr, results to stdout.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Annotated, NoReturn

import typer

from engine.cli.commands import diff, export, fsck, gc, lineage, operators, pipelines, queries
from engine.cli.commands.shared import Settings, say
from engine.cli.invocation import propose
from engine.cli.printable import harmless
from engine.errors import EngineError, PipelineError

app = typer.Typer(
    name="engine",
    help="Author YAML pipelines for LLM post-training data, run them, and query their lineage with SQL.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def main() -> NoReturn:
    """The entry point: runs a command and turns errors into messages and exit codes."""
    signal.signal(signal.SIGTERM, _interrupt)
    # Arrow's allocator is to give memory back at once, here and in workers: it would keep the most it ever had.
    os.environ.setdefault("MIMALLOC_PURGE_DELAY", "0")
    warnings = logging.StreamHandler()
    warnings.setFormatter(_HarmlessFormatter("%(levelname)s: %(message)s"))
    logging.getLogger("registry").addHandler(warnings)
    Settings.debug = "--debug" in sys.argv[1:]
    try:
        code = app(standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        say("interrupted; finished work is kept")
        code = 130
    except typer.Exit as stop:
        code = stop.exit_code
    except BrokenPipeError:
        # The reader of our output went away (`| head`): nothing to report.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:
        code = _explain(error)
    sys.exit(code if isinstance(code, int) else 0)


class _HarmlessFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return harmless(super().format(record))


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"engine {version('posttrain-engine')}")
        raise typer.Exit


@app.callback()
def _options(
    registry: Annotated[
        str | None,
        typer.Option(
            "--registry",
            metavar="DIR",
            help="The registry's folder, or a URL such as s3://bucket/prefix (or ENGINE_REGISTRY).",
            show_default=".engine",
        ),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    Settings.registry = registry or os.environ.get("ENGINE_REGISTRY") or ".engine"
    Settings.debug = debug or Settings.debug


for command in (
    pipelines.check,
    pipelines.plan,
    pipelines.run,
    pipelines.probe,
    queries.sql,
    queries.ls,
    queries.show,
    queries.head,
    diff.diff,
    lineage.lineage,
    lineage.impact,
    queries.runs,
    operators.ops,
    operators.schema,
    export.export,
    fsck.fsck,
    fsck.rebuild,
    gc.gc,
    gc.pin,
    gc.unpin,
):
    app.command()(command)


def _explain(error: Exception) -> int:
    """Print an error for people; the exit code says whether the pipeline (2) or the work (1) was at fault."""
    from registry.errors import CorruptError, InvalidRequestError, LimitError, MismatchError, RegistryError

    if Settings.debug:
        traceback.print_exc()
    show: Callable[[], str] | None = getattr(error, "format_message", None)
    if show is not None:  # the parser's own errors
        say(f"error: {show()}\n(engine --help lists commands and options)")
        return 2
    if isinstance(error, PipelineError):
        count = len(error.problems)
        say(f"error: {error}" if count == 1 else f"{count} problems:\n{error}")
        return 2
    if isinstance(error, LimitError):
        option = "--timeout SECONDS" if error.limit == "time" else "--memory SIZE"
        say(f"error: {error}, or allow more ({option})")
        return 2
    if isinstance(error, InvalidRequestError):
        say(f"error: {error}")
        return 2
    if isinstance(error, MismatchError):
        say(f"error: {error}\n`{propose('rebuild')}` makes the catalog again from the manifests")
        return 1
    if isinstance(error, CorruptError):
        say(f"error: {error}\n`{propose('fsck', '--deep')}` says what is affected and how to repair it")
        return 1
    if isinstance(error, EngineError | RegistryError):
        say(f"error: {error}")
        return 1
    if isinstance(error, OSError):
        say(f"error: {error.strerror or error}: {error.filename or Settings.registry}")
        return 1
    say(f"error: {type(error).__name__}: {error}")
    say("(this is a bug in the engine or an operator; the option --debug shows where)")
    return 1


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
