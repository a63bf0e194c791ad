"""Runs asynchronous work from synchronous code, even where an event loop is already running, as in a notebook."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


def on_own_loop(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run work on an event loop of its own, in a new thread if this thread is running a loop; returns its result."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work())
    context = contextvars.copy_context()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="own-loop") as thread:
        return thread.submit(context.run, lambda: asyncio.run(work())).result()


class LoopThread:
    """An event loop in a thread of its own, for work that continues while its caller does something else.

    Args:
        name: the name of the thread.
    """

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def begin(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Start some work; returns its future."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run some work beside everything else; waits for its result."""
        return self.begin(work).result()

    def cancel(self) -> None:
        """Cancel everything that is running, and wait until it has ended."""
        self.call(_cancel_others())

    def close(self) -> None:
        """Cancel everything that is running, and end the thread."""
        self.cancel()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
