"""Work that takes too long for one request: a request starts it, and the page asks again until it has ended."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from concurrent.futures import Future
from threading import Lock, Thread


class Background:
    """Runs work in its own threads, by key; one at a time, because each may need much memory. For use from many threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._turn = Lock()
        self._begun: dict[Hashable, Future[None]] = {}

    def has_done(self, key: Hashable, work: Callable[[], object]) -> bool:
        """Whether the work has ended. Starts it if necessary. If it failed, raises its error once; then it can start again.

        Args:
            work: stores its result where the next request finds it.
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
