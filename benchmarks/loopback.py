"""Serves an aiohttp application on a free port of loopback, in this process, which prints the port and serves until it is killed."""

from __future__ import annotations

import asyncio

from aiohttp import web


async def serve(*routes: web.RouteDef) -> None:
    """Serve these routes, and print the port."""
    app = web.Application()
    app.add_routes(routes)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()
