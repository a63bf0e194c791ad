"""Many readers at a time, while runs commit; registries at a URL, read-only, damaged, or being cleaned."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from engine.page.kept import Recent
from engine.page.sessions import AT_ONCE, Sessions
from registry import Registry
from tests.engine.page.conftest import Visit, visitor
from tests.engine.page.stored import store

ROOT = Path(__file__).parents[3]


def count(sessions: Sessions, name: str) -> int:
    with sessions.reader() as reader:
        [(found,)] = reader.session.ask("select count(*) from versions where name = ?", [name]).rows
    return int(found)


def test_a_session_is_used_again_until_the_catalog_changes(registry: Registry) -> None:
    store(registry, "a", [{"n": 1}])
    settle(registry)
    sessions = Sessions(registry.location)
    with sessions.reader() as first:
        pass
    with sessions.reader() as second:
        assert second.session is first.session
    store(registry, "a", [{"n": 2}])
    assert count(sessions, "a") == 2
    sessions.close()


def settle(registry: Registry) -> None:
    """Make the catalog look as if it had been written a while ago."""
    before = registry.catalog.file.stat()
    os.utime(registry.catalog.file, ns=(before.st_atime_ns, before.st_mtime_ns - 10**9))


def test_each_commit_is_seen_by_the_next_request(registry: Registry) -> None:
    sessions = Sessions(registry.location)
    for number in range(1, 12):
        store(registry, "a", [{"n": number}])
        assert count(sessions, "a") == number
    sessions.close()


def test_requests_at_the_same_time_have_sessions_of_their_own(registry: Registry) -> None:
    store(registry, "a", [{"n": 1}])
    sessions = Sessions(registry.location)
    with sessions.reader() as one, sessions.reader() as other:
        assert one.session is not other.session
    sessions.close()


def test_a_request_that_fails_gives_its_place_to_the_next(registry: Registry) -> None:
    store(registry, "a", [{"n": 1}])
    sessions = Sessions(registry.location)
    for _ in range(AT_ONCE + 1):
        with pytest.raises(ZeroDivisionError), sessions.reader():
            raise ZeroDivisionError
    assert count(sessions, "a") == 1
    sessions.close()


def test_a_resting_session_keeps_no_version_from_being_removed(registry: Registry) -> None:
    store(registry, "a", [{"n": 1}])
    settle(registry)
    sessions = Sessions(registry.location)
    assert count(sessions, "a") == 1
    held = registry.catalog.readers.try_to_take()
    assert held
    held.close()
    sessions.close()


@pytest.mark.proof  # many requests and commits
def test_50_readers_read_whole_pages_while_others_commit(registry: Registry, visit: Visit) -> None:
    store(registry, "a", [{"n": number} for number in range(100)])
    client = visit(registry.root)
    stop = threading.Event()

    def commits() -> int:
        own, number = Registry(registry.root), 0
        while not stop.is_set():
            number += 1
            store(own, "a", [{"n": number}])
        return number

    def reads(place: int) -> list[int]:
        addresses = (
            "/",
            "/versions/a@1",
            "/sql?q=select+count(*)+from+versions",
            "/versions/a@1?where=n+<+50&sort=n",
            "/versions/a@1?view=schema",
        )
        return [client.get(addresses[(place + turn) % len(addresses)]).status_code for turn in range(2)]

    with ThreadPoolExecutor(51) as threads:
        writer = threads.submit(commits)
        answers = [code for found in threads.map(reads, range(50)) for code in found]
        stop.set()
        assert writer.result() > 2
    assert answers == [200] * 100


@pytest.fixture
def read_only(registry: Registry) -> Iterator[Path]:
    """A registry that its reader cannot write to. Root can write everywhere, so if we are root, another user reads it."""
    store(registry, "a", [{"n": number} for number in range(3)])
    folder = Path(tempfile.mkdtemp(prefix="engine-tests-page-"))
    shutil.copytree(registry.root, folder / "registry")
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield folder / "registry"
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)
    shutil.rmtree(folder)


def test_a_registry_that_cannot_be_written_is_read(read_only: Path, registry: Registry) -> None:
    code = (
        f"import os, sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from tests.engine.page.conftest import visitor\n"
        "paths = ('/', '/versions/a@1', '/versions/a@1?view=charts', '/sql?q=from+a')\n"
        "def visit(location):\n"
        "    client = visitor(location)\n"
        "    client.get('/', params={'token': 'secret'})\n"
        "    return [client.get(path).status_code for path in paths * 2]\n"
        f"visit({str(registry.root)!r})\n"  # imports everything, which somebody else may not be allowed to read
        "if os.geteuid() == 0: os.seteuid(65534)\n"
        f"try: open({str(read_only / 'x')!r}, 'w')\n"
        f"except OSError: print(*visit({str(read_only)!r}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["200"] * 8, done.stderr


def test_a_registry_at_a_url_is_read(s3: str, workdir: Path) -> None:
    registry = Registry("s3://bucket/page")
    store(registry, "far/away", [{"text": "hello"}])
    client = visitor(registry.location)
    client.get("/", params={"token": "secret"})
    assert "far/away" in client.get("/").text
    assert "hello" in client.get("/versions/far/away@1").text


def damaged(registry: Registry) -> TestClient:
    client = visitor(registry.root)
    client.get("/", params={"token": "secret"})
    return client


def test_a_damaged_object_is_reported_with_advice(registry: Registry) -> None:
    made = store(registry, "a", [{"n": 1}])
    path = registry.store.path(made.data[0].sha256)
    path.chmod(0o644)
    path.write_bytes(b"x" * path.stat().st_size)
    answer = damaged(registry).get("/versions/a@1")
    assert answer.status_code == 500
    assert "damaged" in answer.text
    assert "engine fsck --deep" in answer.text
    assert "Traceback" not in answer.text
    assert damaged(registry).get("/").status_code == 200


def test_a_damaged_manifest_is_reported(registry: Registry) -> None:
    made = store(registry, "a", [{"n": 1}])
    path = registry.root / "manifests" / f"{made.version_id}.json"
    path.chmod(0o644)
    path.write_text("{}")
    answer = damaged(registry).get("/versions/a@1")
    assert answer.status_code == 500
    assert "damaged" in answer.text or "manifest" in answer.text


def test_recent_values_are_kept_up_to_their_weight() -> None:
    made: list[str] = []

    def make(word: str) -> str:
        made.append(word)
        return word

    kept: Recent[str] = Recent(10, len)
    for word in ("aaaa", "bbbb", "aaaa", "cccc", "aaaa", "bbbb", "d" * 11, "d" * 11):
        assert kept.get(word, lambda word=word: make(word)) == word  # type: ignore[misc]
    assert made == ["aaaa", "bbbb", "cccc", "bbbb", "d" * 11, "d" * 11]
