"""Runs asynchronous work from code that is not asynchronous, also where an event loop is running already, as in a notebook."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


def on_own_loop(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """The result of work on an event loop of its own; if this thread is running a loop, in a thread of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work())
    context = contextvars.copy_context()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="own-loop") as thread:
        return thread.submit(context.run, lambda: asyncio.run(work())).result()
