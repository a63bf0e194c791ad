"""The command line: passes arguments to commands, and turns errors into messages and exit codes.

Results go to stdout, progress and messages to stderr.
"""

from __future__ import annotations

import atexit
import gc
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from engine.cli.commands import compare, diff, export, fsck, lineage, operators, pipelines, preview, queries, reviews, ui
from engine.cli.commands import gc as gc_commands
from engine.cli.commands.shared import Options, say
from engine.cli.invocation import propose
from engine.cli.opening import DEFAULT_REGISTRY
from engine.errors import EngineError, PipelineError, message_of
from engine.printable import harmless
from registry.errors import is_interruption


class _Commands(TyperGroup):
    """Typer itself would end an interrupted command without a word."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Abort from None


app = typer.Typer(
    name="engine",
    cls=_Commands,
    help="Run YAML pipelines that make LLM post-training data, and query the results and their lineage with SQL.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def main() -> NoReturn:
    """The entry point: runs a command and turns errors into messages and exit codes."""
    signal.signal(signal.SIGTERM, _interrupt)
    # Imports allocate a lot and free little. Looking for cycles every 700 allocations takes a tenth of a short command's time.
    gc.set_threshold(50_000)
    atexit.register(_end_quickly)
    # By default, Arrow's allocator keeps memory that it once had. Here and in workers, it returns memory at once.
    os.environ.setdefault("MIMALLOC_PURGE_DELAY", "0")
    warnings = logging.StreamHandler()
    warnings.setFormatter(_HarmlessFormatter("%(levelname)s: %(message)s"))
    logging.getLogger("registry").addHandler(warnings)
    try:
        code = app(standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = _interrupted()
    except typer.Exit as stop:
        code = stop.exit_code
    except BrokenPipeError:
        # The reader of our output has closed it (`| head`).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:
        if "--debug" in sys.argv[1:]:
            traceback.print_exc()
        code = _interrupted() if is_interruption(error) else _explain(error)
    sys.exit(code if isinstance(code, int) else 0)


class _HarmlessFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return harmless(super().format(record))


def _end_quickly() -> None:
    """Spare the interpreter its last search for cycles, which takes another tenth. DuckDB reports what is not freed."""
    if "duckdb" not in sys.modules:
        gc.freeze()


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"engine {version('posttrain-engine')}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    registry: Annotated[
        str | None,
        typer.Option(
            "--registry",
            metavar="DIR",
            help="The registry: a folder, or a URL such as s3://bucket/prefix. Can also be set with ENGINE_REGISTRY.",
            show_default=".engine",
        ),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    context.obj = Options(registry or os.environ.get("ENGINE_REGISTRY") or DEFAULT_REGISTRY, debug)


for command in (
    pipelines.check,
    pipelines.plan,
    preview.preview,
    pipelines.run,
    pipelines.probe,
    queries.sql,
    queries.ls,
    queries.show,
    queries.head,
    diff.diff,
    compare.compare,
    lineage.lineage,
    lineage.impact,
    queries.runs,
    operators.ops,
    operators.schema,
    export.export,
    ui.ui,
    fsck.fsck,
    fsck.rebuild,
    gc_commands.gc,
    gc_commands.pin,
    gc_commands.unpin,
):
    app.command()(command)


app.add_typer(reviews.app)


def _explain(error: Exception) -> int:
    """Print an error for users; returns 2 if the pipeline or the arguments are wrong, 1 if the work failed."""
    from registry.errors import CorruptError, InvalidRequestError, LimitError, MismatchError, RegistryError

    show: Callable[[], str] | None = getattr(error, "format_message", None)
    if show is not None:  # the parser's own errors
        say(f"error: {show().replace('Value error, ', '')}\n({_usage_advice(error)})")  # pydantic's words, through typer
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
        say(f"error: {error}\n`{propose('rebuild')}` rebuilds the catalog from the manifests")
        return 1
    if isinstance(error, CorruptError):
        say(f"error: {error}\n`{propose('fsck', '--deep')}` shows what is affected and how to repair it")
        return 1
    if isinstance(error, EngineError | RegistryError):
        say(f"error: {error}")
        return 1
    if isinstance(error, OSError):
        say(f"error: {message_of(error)}")
        return 1
    say(f"error: {type(error).__name__}: {error}")
    say("(this is a bug in the engine or in an operator; --debug shows where)")
    return 1


def _usage_advice(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    command = context.info_name if context is not None and context.parent is not None else None
    if command is None:
        return "engine --help lists commands and options"
    option = getattr(error, "option_name", None)
    if option in ("--registry", "--debug"):
        return f"{option} goes before the command: engine {option} ... {command} ..."
    return f"engine {command} --help lists its arguments and options"


def _interrupted() -> int:
    say("interrupted; finished work is kept")
    return 130


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
