"""Work that takes too long for a page is done in the background, once, and its errors are shown."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
from starlette.testclient import TestClient

from engine.page.background import Background
from registry import QueryError, Registry
from tests.engine.page.conftest import Visit
from tests.engine.page.stored import store

ROWS = [{"id": number, "word": f"word {number}"} for number in range(20)]
CHANGED = [{"id": number, "word": "other" if number == 3 else f"word {number}"} for number in range(20)]


def ended() -> None:
    """Wait until no work is left in the background."""
    for thread in threading.enumerate():
        if thread.name == "background work":
            thread.join()


def test_work_is_done_once() -> None:
    background, may_end, done = Background(), threading.Event(), []

    def work() -> None:
        may_end.wait()
        done.append(1)

    assert [background.has_done("key", work) for _ in range(3)] == [False, False, False]
    may_end.set()
    ended()
    assert (background.has_done("key", work), done) == (True, [1])


def test_an_error_in_the_work_is_raised_once_and_then_the_work_starts_again() -> None:
    background = Background()

    def work() -> None:
        raise QueryError("no such key")

    assert not background.has_done("key", work)
    ended()
    with pytest.raises(QueryError, match="no such key"):
        background.has_done("key", work)
    assert not background.has_done("key", work)
    ended()


def test_large_versions_are_compared_in_the_background(
    registry: Registry, visit: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.page.facts.datasets.differences.LARGE", len(ROWS))
    store(registry, "words", ROWS)
    store(registry, "words", CHANGED)
    client = visit(registry.root)
    first = client.get("/versions/words@2", params={"view": "diff"})
    assert (first.status_code, first.headers["refresh"]) == (200, "1")
    assert "Comparing <b>20 rows</b> with the 20 rows of <bdi>words@1</bdi>" in first.text
    ended()
    for _ in range(2):
        then = client.get("/versions/words@2", params={"view": "diff"})
        assert "refresh" not in then.headers
        assert "<b>1</b> changed" in then.text


def test_a_comparison_that_fails_in_the_background_says_why(
    registry: Registry, visit: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.page.facts.datasets.differences.LARGE", len(ROWS))
    store(registry, "words", ROWS)
    store(registry, "words", [*CHANGED[:-1], CHANGED[0]])
    client: TestClient = visit(registry.root)
    client.get("/versions/words@2", params={"view": "diff", "key": "id"})
    ended()
    failed = client.get("/versions/words@2", params={"view": "diff", "key": "id"})
    assert failed.status_code == 400
    assert "occurs in more than one row" in failed.text


@pytest.mark.proof  # a process of its own
def test_rows_their_order_and_their_lineage_need_no_pandas(registry: Registry) -> None:
    store(registry, "words", ROWS)
    code = (
        "import sys\n"
        "from tests.engine.page.conftest import visitor\n"
        f"client = visitor({str(registry.root)!r})\n"
        "client.get('/', params={'token': 'secret'})\n"
        "for path in ('/', '/versions/words@1', '/versions/words@1?sort=word', '/rows/3/words@1'):\n"
        "    assert client.get(path).status_code == 200, path\n"
        "    assert 'pandas' not in sys.modules, path\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
