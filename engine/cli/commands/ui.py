"""The command `ui`: the registry as a page in a browser, or a part of it as a folder of files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.cli.commands.shared import Context, existing_registry, say
from engine.errors import PipelineError, Problem

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_SIZE = re.compile(r"(\d{1,9}(?:\.\d{1,6})?) ?([kKMG]?B)?")


def ui(
    context: Context,
    target: Annotated[
        str | None,
        typer.Argument(metavar="[RUN_ID|NAME[@V]]", help="With --bundle: what to copy. The default is the last run."),
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            "--host",
            metavar="ADDRESS",
            help="Listen on this address. With any address other than 127.0.0.1, other machines can read the registry.",
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", metavar="PORT", min=0, max=65535, help="Listen on this port; 0: any.")] = 7777,
    bundle: Annotated[
        Path | None,
        typer.Option(
            "--bundle",
            metavar="DIR",
            help="Start no server; write the pages of a run or a version into this folder, to open from disk or put on any "
            "web host. The folder must be new, empty, or an earlier bundle, which is replaced.",
        ),
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option("--rows", metavar="N", min=0, help="The first N rows of each dataset in a bundle. Default: all that fit."),
    ] = None,
    max_size: Annotated[
        str, typer.Option("--max-size", metavar="SIZE", help="The largest size of a bundle: 800kB, 50MB or 1GB.")
    ] = "50MB",
) -> None:
    """Look at the registry in a browser: runs, datasets, rows and their lineage, models, costs. Prints the address to open,
    with a secret token. Changes nothing but reviews, and can run while pipelines run."""
    from engine.pipeline.packages import EXTRAS, how_to_install, missing

    if absent := missing(EXTRAS["ui"]):
        what = f"the page needs the package{'s' if len(absent) > 1 else ''} {', '.join(absent)}, not installed"
        raise PipelineError([Problem(what, hint=how_to_install(absent))])
    _check_options(context, bundled=bundle is not None)
    limit = _bytes(max_size)
    registry = existing_registry(context)
    if bundle is not None:
        _write(registry, target, bundle, limit, rows)
        return
    from engine.page.access import LOOPBACK
    from engine.page.serving import serve

    def ready(address: str) -> None:
        if host not in LOOPBACK:
            say(f"note: the page listens on {host}. {_OPEN_TO_OTHERS}")
        print(f"The page is at {address}", flush=True)
        say("(press Ctrl-C to stop)")

    serve(registry.location, registry.where, host, port, ready, debug=context.obj.debug)


def _write(registry: Any, target: str | None, folder: Path, limit: int, rows: int | None) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from engine.page.bundle.writing import write_bundle
    from engine.page.rendering.filters import size
    from engine.printable import harmless
    from registry.counted import counted

    columns = TextColumn("writing rows"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=None)

        def advanced(taken: int, wanted: int) -> None:
            progress.update(task, completed=taken, total=wanted)

        done = write_bundle(registry, target, folder, limit=limit, most=rows, advanced=advanced)
    print(harmless(f"{folder / 'index.html'}: {counted(done.files, 'file')}, {size(done.bytes)}"))
    print(harmless(done.note))
    for name, (taken, total) in done.rows.items():
        print(harmless(f"  {name}  {taken:,} of {counted(total, 'row')}"))


def _check_options(context: Context, *, bundled: bool) -> None:
    """Raise PipelineError for options that cannot be combined."""
    options = {"target": "RUN_ID or NAME", "rows": "--rows", "max_size": "--max-size"}
    if bundled:
        options = {"host": "--host", "port": "--port"}
    for name, option in options.items():
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            what = f"{option} is for the page, which --bundle does not serve" if bundled else f"{option} is for --bundle DIR"
            raise PipelineError([Problem(what, hint="`engine ui --help` describes both")])


def _bytes(text: str) -> int:
    """A size in bytes; raises PipelineError."""
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise PipelineError([Problem(f"--max-size {text}: this is not a size", hint="write it like 800kB, 50MB or 1GB")])
    return int(float(found[1]) * _UNITS[(found[2] or "").upper()])


_OPEN_TO_OTHERS = (
    "Anyone who has its address, with the token, can read the whole registry from another machine, and traffic is not "
    "encrypted. An SSH tunnel to 127.0.0.1 is safer."
)
