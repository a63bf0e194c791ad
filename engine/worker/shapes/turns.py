"""Runs something for each of many items with as few tasks as possible.

A task for each item costs several times what an operator that never waits does with it.
"""

from __future__ import annotations

import asyncio
import sys
import types
from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator
from contextvars import copy_context
from functools import partial
from typing import Any, Generic, TypeVar

T = TypeVar("T")
Process = Callable[[Iterator[T]], Coroutine[Any, Any, None]]


async def in_turn(items: Iterable[T], process: Process[T]) -> None:
    """Process items in their order. While one of them waits, others continue, as if each had a task of its own.

    As long as none waits, they share a task. A task whose context variables an item has changed takes no other one, so no
    item sees those of another.

    Args:
        items: taken one by one.
        process: takes items from an iterator until it ends. It does not wait between two items.
    """
    await _Turns(items, process).run()


class _Turns(Generic[T]):
    def __init__(self, items: Iterable[T], process: Process[T]) -> None:
        self._left = iter(items)
        self._process = process
        self._context = copy_context()
        self._loop = asyncio.get_running_loop()
        self._end: asyncio.Future[None] = self._loop.create_future()
        self._unfinished: set[asyncio.Task[None]] = set()
        self._begun = 0
        self._all_taken = False

    async def run(self) -> None:
        self._begin()
        try:
            await self._end
        finally:
            for task in self._unfinished:
                task.cancel()

    def _begin(self) -> None:
        """Let a new task take the next items."""
        self._begun += 1
        task = self._loop.create_task(self._turn(self._begun), context=self._context.copy())
        self._unfinished.add(task)
        task.add_done_callback(self._ended)

    async def _turn(self, number: int) -> None:
        await _watched(self._process(self._items(number)), lambda: self._hand_over(number))

    def _hand_over(self, number: int) -> None:
        if number == self._begun and not self._all_taken and not self._end.done():
            self._begin()

    def _items(self, number: int) -> Iterator[T]:
        for item in self._left:
            yield item
            if number != self._begun:
                return
            if copy_context() != self._context:
                self._begin()
                return
        self._all_taken = True

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._unfinished.discard(task)
        if self._end.done():
            return
        if task.cancelled():
            self._end.cancel()
        elif error := task.exception():
            self._end.set_exception(error)
        elif not self._unfinished:
            self._end.set_result(None)


@types.coroutine
def _watched(work: Coroutine[Any, Any, None], when_it_waits: Callable[[], None]) -> Generator[Any, None, None]:
    """Run a coroutine, and call `when_it_waits` before it waits.

    The loop lists each async generator that begins, to close it when the loop itself is closed. That takes a third of the time
    of one that does not wait, and changes nothing: it has ended by then, and one that waits is closed with its task. So none is
    listed here.
    """
    resume = partial(work.send, None)
    while True:
        listing = sys.get_asyncgen_hooks().firstiter
        sys.set_asyncgen_hooks(firstiter=None)
        try:
            awaited = resume()
        except StopIteration:
            return
        finally:
            sys.set_asyncgen_hooks(firstiter=listing)
        when_it_waits()
        try:
            yield awaited
            resume = partial(work.send, None)
        except BaseException as error:
            resume = partial(work.throw, error)
