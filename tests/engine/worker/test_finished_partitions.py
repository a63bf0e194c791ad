"""A partition that a worker finished before it died is not run again by the worker that takes over."""

from __future__ import annotations

from typing import Any

import pytest

from engine.execution.executor import Result
from engine.worker import partition_worker
from registry import Registry
from tests.engine.run_pipelines import run_text, texts, words
from tests.engine.running.scripted import Scripted


class Twice(Scripted):
    """Sends each partition twice, as if the first answer had been lost with its process."""

    def next(self, seconds: float) -> Result | None:
        if self._running:
            step, part = self._running[0]
            assert self._host
            self._loop.run_until_complete(self._host.run(step, part))
        return super().next(seconds)


def test_it_returns_the_receipt(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    run_rows = partition_worker.run_rows

    async def counted(operation: Any, part: Any, *more: Any) -> Any:
        ran.append(part.digest)
        return await run_rows(operation, part, *more)

    monkeypatch.setattr(partition_worker, "run_rows", counted)
    words(*"abcd")
    pipeline = "{name: demo, datasets: {words: {type: Word, path: words.jsonl}}, steps: {s: {op: shout, in: words}}}"
    for force in ("", "s"):
        result = run_text(pipeline, registry, force=force, cluster=Twice(lambda count: 0))
        assert result.state == "succeeded", result.error
        assert texts(registry, "demo/s") == ["A!", "B!", "C!", "D!"]
        assert len(ran) == (2 if force else 1), "a receipt from before the run does not count"
