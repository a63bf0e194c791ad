"""The command `ui`: the registry as a page in a browser."""

from __future__ import annotations

from typing import Annotated

import typer

from engine.cli.commands.shared import Context, existing_registry, say
from engine.errors import PipelineError, Problem


def ui(
    context: Context,
    host: Annotated[
        str,
        typer.Option(
            "--host",
            metavar="ADDRESS",
            help="Listen on this address. Other than 127.0.0.1: other machines can read the registry.",
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", metavar="PORT", min=0, max=65535, help="Listen on this port; 0: any.")] = 7777,
) -> None:
    """Look at the registry in a browser: runs, datasets, rows and their lineage, models, costs. Prints the address to open,
    with a secret token. Changes nothing but reviews, and can run while pipelines run."""
    from engine.pipeline.packages import EXTRAS, how_to_install, missing

    if absent := missing(EXTRAS["ui"]):
        what = f"the page needs the package{'s' if len(absent) > 1 else ''} {', '.join(absent)}, not installed"
        raise PipelineError([Problem(what, hint=how_to_install(absent))])
    registry = existing_registry(context)
    from engine.page.access import LOOPBACK
    from engine.page.serving import serve

    def ready(address: str) -> None:
        if host not in LOOPBACK:
            say(f"note: the page listens on {host}. {_OPEN_TO_OTHERS}")
        print(f"The page is at {address}", flush=True)
        say("(Ctrl-C ends it)")

    serve(registry.location, registry.where, host, port, ready, debug=context.obj.debug)


_OPEN_TO_OTHERS = (
    "Whoever has its address, with the token, can read the whole registry from another machine, and what is sent is not "
    "encrypted. An SSH tunnel to 127.0.0.1 is safer."
)
