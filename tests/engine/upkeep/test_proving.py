"""What `engine fsck` reports about receipts and answers, what it prints, and that its advice repairs a registry."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
from contextlib import closing
from typing import Any

import pytest
from typer.testing import CliRunner

from engine.cli.app import app
from engine.jobs.messages import OutputPart, Receipt
from engine.jobs.receipts import Receipts
from engine.llm.journal.answers import Journal
from engine.llm.types.completions import Completion
from engine.upkeep.fsck import fsck
from registry import DataObject, Registry
from tests.engine.run_pipelines import ask, outcomes, run_text, texts, words
from tests.registry.upkeep.test_fsck import commit, draft, flip, only

DIGEST = "ab" * 32


@pytest.fixture
def whole(registry: Registry) -> Registry:
    """A registry with a version, a receipt, and an unclosed journal with ten answers."""
    commit(registry, draft(registry, "p/a", ["x", "y"]))
    stored = registry.store.put_bytes(b"rows of a part")
    part = OutputPart(data=DataObject(sha256=stored.sha256, rows=1, bytes=stored.bytes))
    receipt = Receipt(digest=DIGEST, rows=1, outputs={"": part}, produced=1, filtered=0, rejected=0)
    Receipts.of(registry, "key").write(receipt)

    async def put(journal: Journal) -> None:
        for number in range(10):
            await journal.put(f"key {number}", Completion(text=f"answer {number}"))

    with closing(Journal(registry.root / "open")) as journal:
        asyncio.run(put(journal))
        shutil.copytree(registry.root / "open", registry.journal, ignore=shutil.ignore_patterns("*-shm"))
    shutil.rmtree(registry.root / "open")
    return registry


def command(registry: Registry, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Any:
    """The result of `engine fsck`."""
    return CliRunner().invoke(app, ["--registry", str(registry.root), "fsck", *arguments], catch_exceptions=False)


# -- the engine's own files ---------------------------------------------------------------------------------------------


def test_receipts_and_answers_are_checked(whole: Registry) -> None:
    report = fsck(whole, deep=True)
    assert report.findings == ()
    counts = {kind: tally.count for kind, tally in report.checked.items()}
    assert (counts["objects"], counts["receipts"], counts["journal of answers"]) == (3, 1, 2)


def test_a_damaged_receipt_is_reported_and_affects_no_version(whole: Registry) -> None:
    flip(whole.receipts / "key" / f"{DIGEST}.json")
    finding = only(fsck(whole).errors)
    assert (finding.where, finding.versions) == (f"receipts/key/{DIGEST}.json", ())


def test_a_receipt_without_its_objects_is_not_an_error(whole: Registry) -> None:
    whole.store.path(whole.store.put_bytes(b"rows of a part").sha256).unlink()
    assert only(fsck(whole, deep=True).findings).what == "1 name objects that are missing"


@pytest.mark.parametrize("deep", [False, True])
def test_an_invalid_journal_is_reported(whole: Registry, deep: bool) -> None:
    for file in whole.journal.iterdir():
        file.unlink()
    (whole.journal / "answers.sqlite").write_bytes(b"no database")
    assert {finding.where for finding in fsck(whole, deep=deep).errors} == {"journal/answers.sqlite"}


def test_a_damaged_answer_is_reported_and_fscks_advice_deletes_it(whole: Registry) -> None:
    with closing(sqlite3.connect(whole.journal / "answers.sqlite")) as journal, journal:
        journal.execute("update answers set answer = replace(answer, 'answer 7', 'answer 8')")
    finding = only(fsck(whole, deep=True).errors)
    assert finding.what == "is damaged at entry key 7"
    _, statement, _ = finding.advice.split('"')
    with closing(sqlite3.connect(whole.journal / "answers.sqlite")) as journal, journal:
        journal.execute(statement)
    assert fsck(whole, deep=True).errors == []


@pytest.mark.parametrize("position", [10, 40, -2000, -1])
def test_a_log_that_sqlite_would_silently_truncate_is_reported(whole: Registry, position: int) -> None:
    log = whole.journal / "answers.sqlite-wal"
    frames = log.stat().st_size // 4096
    flip(log, position)
    finding = fsck(whole, deep=True).errors[-1]
    assert finding.where == "journal/answers.sqlite-wal"
    frame = {10: 0, 40: 1}.get(position, frames)
    assert finding.what.startswith(f"is damaged at frame {frame},")


def test_a_restarted_log_is_not_damaged(whole: Registry) -> None:
    with closing(Journal(whole.journal)) as journal, closing(sqlite3.connect(journal.file)) as other:
        other.execute("pragma wal_checkpoint(restart)")
        asyncio.run(journal.put("one more", Completion(text="answer")))
        # After the new frames come those of the previous round.
        assert fsck(whole, deep=True).errors == []


# -- the command ------------------------------------------------------------------------------------------------------


def test_the_command_prints_what_it_checked(whole: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    result = command(whole, monkeypatch)
    assert result.exit_code == 0
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert f"manifests 1 {fsck(whole).checked['manifests'].bytes}" in lines
    assert lines[-3].startswith("checked presence and sizes (--deep reads everything) in ")
    assert lines[-1] == "no problems found"


def test_the_command_fails_if_something_is_damaged(whole: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = whole.store.path(whole.manifest("p/a", 1).data[0].sha256)
    flip(damaged, 50)
    assert command(whole, monkeypatch).exit_code == 0
    result = command(whole, monkeypatch, "--deep")
    assert result.exit_code == 1
    first, advice, _, verdict = result.stdout.splitlines()[-4:]
    assert (
        first
        == f"error: objects/{damaged.parent.name}/{damaged.name}: (rows) is damaged: its bytes do not have this SHA-256 [p/a@1]"
    )
    assert advice == "  delete it and run p again: that restores it, and the versions keep their numbers"
    assert verdict == "1 error, 0 notes"
    result = command(whole, monkeypatch, "--deep", "--json")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert document["looked_at"]["manifests"]["count"] == 1
    assert [error["versions"] for error in document["errors"]] == [["p/a@1"]]
    assert document["notes"] == []


# -- its advice --------------------------------------------------------------------------------------------------

PIPELINE = """
name: demo
datasets: {words: {type: Word, path: words.jsonl}}
steps:
  cut: {op: by_length, in: words}
  loud: {op: shout, in: cut.long}
"""


@pytest.mark.usefixtures("in_process")
def test_following_fscks_advice_restores_versions_under_their_numbers(registry: Registry) -> None:
    words("one", "two", "three")
    run_text(PIPELINE, registry)
    before = texts(registry, "demo/loud@1"), ask(registry, "from row_lineage order by all")
    long, loud, source = (registry.manifest(name, 1) for name in ("demo/cut.long", "demo/loud", "demo/words"))
    for sha256 in (source.data[0].sha256, long.data[0].sha256, loud.side[0].sha256, long.key_object.sha256):
        flip(registry.store.path(sha256), 5)
    flip(registry.root / "manifests" / f"{loud.version_id}.json")
    errors = fsck(registry, deep=True).errors
    assert len(errors) == 5
    for error in errors:
        assert error.advice.startswith("delete ")
        (registry.root / error.where).unlink()
    registry.catalog.rebuild()
    assert outcomes(run_text(PIPELINE, registry)) == {"cut": "ran", "loud": "resumed"}
    assert fsck(registry, deep=True).errors == []
    assert (texts(registry, "demo/loud@1"), ask(registry, "from row_lineage order by all")) == before
    assert {version for (version,) in ask(registry, "select version from versions")} == {1}
