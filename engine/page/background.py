"""Work that takes longer than a page may: one request begins it, and the page asks again until it has ended."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from concurrent.futures import Future
from threading import Lock, Thread


class Background:
    """Work in threads of its own, by key; one after the other, because each may need much memory. For many threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._turn = Lock()
        self._begun: dict[Hashable, Future[None]] = {}

    def has_done(self, key: Hashable, work: Callable[[], object]) -> bool:
        """Whether the work has ended. Begins it if it was not begun. Raises what it raised, once; then it can begin again.

        Args:
            work: keeps its result where the next request finds it.
        """
        with self._lock:
            found = self._begun.get(key)
            if found is None:
                ended: Future[None] = Future()
                self._begun[key] = ended
                Thread(target=self._do, args=(work, ended), name="background work", daemon=True).start()
            if found is None or not found.done():
                return False
            del self._begun[key]
        found.result()
        return True

    def _do(self, work: Callable[[], object], ended: Future[None]) -> None:
        try:
            with self._turn:
                work()
        except BaseException as error:  # it is raised where the result is wanted
            ended.set_exception(error)
        else:
            ended.set_result(None)
