"""Decisions are durable as soon as they are made, whoever makes them, and nothing replaces them unnoticed."""

from __future__ import annotations

import datetime as dt
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.upkeep import gc
from engine.upkeep.fsck import fsck
from registry import CorruptError, Decision, Registry, RegistryError
from registry.reviews.decisions import current
from registry.reviews.outcomes import outcome_of
from tests.engine.run_pipelines import ask

NOON = dt.datetime(2025, 6, 1, 12, tzinfo=dt.UTC)


def decision(row: int = 0, verdict: str = "approve", reviewer: str = "Ann", minute: int = 0, **more: Any) -> Decision:
    given = {"queue": "demo/check", "row": f"{row:064x}", "reviewer": reviewer, "verdict": verdict}
    return Decision.model_validate({**given, "at": NOON + dt.timedelta(minutes=minute), **more})


def test_decisions_come_back_by_time(registry: Registry) -> None:
    late, early = decision(minute=5), decision(row=1, minute=1, verdict="edit", fields={"text": "ä\u2028"}, labels=["a"])
    registry.reviews.add([late])
    registry.reviews.add([early, decision(row=2, minute=9)])
    registry.reviews.add([])
    assert Registry(registry.root).reviews.decisions()[:2] == [early, late]
    assert Registry(registry.root).reviews.decisions("demo/check") == registry.reviews.decisions()
    assert registry.reviews.decisions("demo/other") == []


def test_a_later_decision_of_the_same_reviewer_replaces_the_earlier_one(registry: Registry) -> None:
    registry.reviews.add([decision(minute=2, verdict="reject")])
    registry.reviews.add([decision(minute=1)])
    registry.reviews.add([decision(reviewer="Ben")])
    found = current(registry.reviews.decisions())
    assert [(each.reviewer, each.verdict) for each in found[f"{0:064x}"]] == [("Ann", "reject"), ("Ben", "approve")]
    registry.reviews.add([decision(minute=3, verdict="skip")])
    assert [each.reviewer for each in current(registry.reviews.decisions())[f"{0:064x}"]] == ["Ben"]
    assert len(registry.reviews.decisions()) == 4


@pytest.mark.parametrize("name", ["", " ", "a\nb", "x" * 101, "\ud800"])
def test_a_reviewer_has_a_name(name: str) -> None:
    with pytest.raises(ValueError, match=r"reviewer|surrogate|name of 1 to 100"):
        decision(reviewer=name)


def test_nothing_is_created_before_the_first_decision(registry: Registry) -> None:
    assert registry.reviews.decisions() == []
    assert registry.reviews.queues() == []
    assert not registry.root.exists()


WRITER = """
    import datetime as dt, sys
    from registry import Decision, Registry
    store = Registry(sys.argv[1]).reviews
    for number in range(100_000):
        store.add([Decision(queue="demo/check", row=f"{number:064x}", reviewer=sys.argv[2], verdict="approve",
                            at=dt.datetime.now(dt.UTC))])
        print(number, flush=True)
"""


@pytest.mark.proof
def test_kill_9_loses_no_decision(registry: Registry) -> None:
    """Three reviewers at once, killed at any moment: every confirmed decision is there, and nothing is damaged."""
    for attempt in range(3):
        names = [f"{name}{attempt}" for name in ("Ann", "Ben", "Cem")]
        command = [sys.executable, "-c", dedent(WRITER), str(registry.root)]
        writers = [subprocess.Popen([*command, name], stdout=subprocess.PIPE, text=True) for name in names]
        confirmed = {}
        for writer in writers:
            assert writer.stdout
            for _ in range(5 + attempt):
                assert writer.stdout.readline()
            writer.send_signal(signal.SIGKILL)
        for name, writer in zip(names, writers, strict=True):
            assert writer.stdout
            rest = [line for line in writer.stdout if line.endswith("\n")]
            confirmed[name] = 5 + attempt + len(rest)
            assert writer.wait() == -signal.SIGKILL
        found = Registry(registry.root).reviews.decisions()
        for name, count in confirmed.items():
            made = {int(each.row, 16) for each in found if each.reviewer == name}
            assert made >= set(range(count))
            assert len(made) <= count + 1
    # A killed writer leaves a file that is not a decision, and that the next collection removes.
    assert not [finding for finding in fsck(registry).findings if finding.severity == "error"]
    (next(registry.root.glob("reviews/*")) / ".x.tmp").write_text("{")
    old = time.time() - 10_000
    for path in registry.root.glob("reviews/*/.*.tmp"):
        os.utime(path, (old, old))
    kept = Registry(registry.root).reviews.decisions()
    assert any("an unfinished file" in each.what for each in gc.collect(registry).leftovers)
    assert Registry(registry.root).reviews.decisions() == kept


def test_damage_is_found_and_named(registry: Registry) -> None:
    registry.reviews.add([decision()])
    [name] = registry.reviews.files()
    path = registry.root / "reviews" / name
    path.write_bytes(path.read_bytes().replace(b"approve", b"reject!"))
    with pytest.raises(CorruptError, match=name):
        Registry(registry.root).reviews.decisions()
    [finding] = [each for each in fsck(Registry(registry.root)).findings if each.severity == "error"]
    assert finding.where == f"reviews/{name}"
    assert "is damaged" in finding.what
    # An undamaged file under the name of another one is an error as well.
    registry.reviews.add([decision(row=1)])
    [other] = [each for each in registry.reviews.files() if each != name]
    path.write_bytes((registry.root / "reviews" / other).read_bytes())
    with pytest.raises(CorruptError, match="the decisions of another file"):
        Registry(registry.root).reviews.decisions()


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser can write everywhere")
def test_a_read_only_registry_says_so(registry: Registry) -> None:
    registry.reviews.add([decision()])
    folder = registry.root / "reviews"
    for path in (*folder.iterdir(), folder):
        path.chmod(0o500)
    with pytest.raises(RegistryError, match=r"cannot be written .* so the decision was not stored"):
        registry.reviews.add([decision(row=1)])


def test_an_error_of_a_read_only_disk_says_so(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    def refuse(name: str, data: bytes) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), name)

    store = registry.reviews
    monkeypatch.setattr(store._files, "write", refuse)
    with pytest.raises(RegistryError, match=r"reviews cannot be written .*Read-only.* so the decision was not stored"):
        store.add([decision()])
    assert store.decisions() == []


def test_reviews_at_a_url(s3: str, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reviewers on several machines see each other's decisions, which are stored where the objects are."""
    url = f"s3://bucket/reviews-{uuid.uuid4().hex[:8]}"
    monkeypatch.setenv("ENGINE_REGISTRY_LOCAL", str(workdir / "one"))
    Registry(url).reviews.add([decision()])
    monkeypatch.setenv("ENGINE_REGISTRY_LOCAL", str(workdir / "other"))
    assert Registry(url).reviews.decisions() == [decision()]


def test_the_view_has_every_decision_and_says_which_count(registry: Registry) -> None:
    place = {"name": "demo/rows", "version": 1, "row": 3}
    registry.reviews.add([decision(verdict="edit", fields={"text": "new"}, source=place)])
    registry.reviews.add([decision(minute=1, verdict="reject", reason="no", labels=["bad"])])
    registry.catalog.begin_run("demo", {})
    query = "select queue, reviewer, verdict, fields->>'text', labels, reason, counts, name, version, row from reviews order by decided_at"
    assert ask(registry, query) == [
        ("demo/check", "Ann", "edit", "new", [], None, False, "demo/rows", 1, 3),
        ("demo/check", "Ann", "reject", None, ["bad"], "no", True, None, None, None),
    ]
    # An open session keeps its snapshot, and sees the decisions that existed at its first query about them.
    assert ask(registry, "select count(*) from reviews r join versions v using (name, version)") == [(0,)]


VERDICTS = st.sampled_from(["approve", "reject", "edit", "skip"])
DRAWN = st.builds(
    lambda row, verdict, reviewer, minute, label: decision(
        row, verdict, reviewer, minute, labels=[label] if label else [], fields={"text": label} if verdict == "edit" else {}
    ),
    st.integers(0, 2),
    VERDICTS,
    st.sampled_from(["Ann", "Ben", "Cem"]),
    st.integers(0, 3),
    st.sampled_from(["", "a", "b"]),
)


@given(st.lists(DRAWN, max_size=20), st.randoms(use_true_random=False), st.integers(1, 3))
def test_the_order_of_decisions_does_not_matter(made: list[Decision], random: Any, reviewers: int) -> None:
    shuffled = [*made, *made[:2]]  # a decision that is imported twice counts once
    random.shuffle(shuffled)
    one, other = current(made), current(shuffled)
    assert one == other
    for row in one:
        assert outcome_of(one[row], reviewers) == outcome_of(other[row], reviewers)
        assert outcome_of(one[row], reviewers) == outcome_of(tuple(reversed(one[row])), reviewers)


@given(st.lists(DRAWN, max_size=12), st.integers(1, 3))
def test_the_majority_decides(made: list[Decision], reviewers: int) -> None:
    for row, counting in current(made).items():
        outcome = outcome_of(counting, reviewers)
        accepting = sum(each.verdict in ("approve", "edit") for each in counting)
        if outcome is None:
            continue
        assert len(counting) >= reviewers
        assert outcome.accepted == (2 * accepting > len(counting)), row
