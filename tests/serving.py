"""A server on loopback, in its own thread, for the duration of a `with` block."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, Self

from aiohttp import web


class InThread:
    """Runs `main()` in a thread, which serves at `base_url`."""

    port: int
    _stop: asyncio.Event

    async def main(self, ready: threading.Event) -> None:
        """Bind a port, set `port` and `ready`, and serve until `_stop`."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(ready,), daemon=True)
        self._thread.start()
        ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    @property
    def base_url(self) -> str:
        """The server's address, for a model's base_url."""
        return f"http://127.0.0.1:{self.port}/v1"

    def _serve(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._run(ready))
        self._loop.close()

    async def _run(self, ready: threading.Event) -> None:
        self._stop = asyncio.Event()
        await self.main(ready)


class Served(InThread):
    """Serves the aiohttp application that `app()` returns."""

    def app(self) -> web.Application:
        """The application."""
        raise NotImplementedError

    async def main(self, ready: threading.Event) -> None:
        """See InThread."""
        runner = web.AppRunner(self.app(), shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        address: Any = runner.addresses[0]
        self.port = address[1]
        ready.set()
        await self._stop.wait()
        held = asyncio.all_tasks() - {asyncio.current_task()}
        await runner.cleanup()
        for task in held:  # answers that are being held back
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)
