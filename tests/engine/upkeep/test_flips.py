"""No flipped bit goes unnoticed: either fsck reports it, or everything reads as before. Wrong data is never read."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pytest

from engine.errors import EngineError
from engine.export.versions import export
from engine.jobs.receipts import Receipts
from engine.llm.journal.answers import Journal
from engine.llm.types.completions import Completion
from engine.upkeep.fsck import fsck
from registry import CorruptError, DataObject, Draft, Manifest, Model, Registry, SideObject, StoredFile, VersionRef
from registry.catalog import side_schemas
from registry.lineage.targets import Version
from registry.records.content import content_id
from registry.records.schema import fields_of
from tests.chat_server import ChatServer
from tests.engine.run_pipelines import run_text, words
from tests.in_process import InProcess
from tests.registry.catalog.test_catalog import VIEWS

PIPELINE = """
name: demo
models: {teacher: %s}
datasets: {words: {type: Word, path: words.jsonl, on_error: skip}}
steps:
  cut: {op: by_length, in: words, max_reject_ratio: 0.5}
  say: {op: ask, in: cut.short}
"""

REFUSED = "refused"
"""Marks what an error prevented from being read."""


class Flip(NamedTuple):
    """The bits to flip in one byte of a file."""

    kind: str
    file: str
    position: int
    mask: int


class Outcome(NamedTuple):
    """The result of a flip: what fsck found, which readings were refused, and which gave something else."""

    flip: Flip
    found: list[str]
    refused: list[str]
    wrong: list[str]


# -- the registry -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with files of every kind, as it is just after a worker with model calls was killed."""
    folder = tmp_path_factory.mktemp("whole")
    registry = Registry(folder / "made")
    with pytest.MonkeyPatch.context() as patch, ChatServer() as server:
        patch.chdir(folder)
        two = ["".join(random.Random(n).choices("abcdefghij", k=2)) for n in range(60)]
        words(*two, "skip", "bad", *[f"word number {n}" for n in range(40)])
        with Path("words.jsonl").open("a") as lines:
            lines.write('{"no": "word"}\n')
        assert run_text(PIPELINE % server.model(), registry, cluster=InProcess()).state == "succeeded"
    model = add_models(registry)
    registry.catalog.pin(model.name, model.version)
    with closing(Journal(registry.journal)) as journal, closing(sqlite3.connect(journal.file)) as other:
        keep_answers(journal, range(50))
        assert other.execute("pragma wal_checkpoint(truncate)").fetchone() == (0, 0, 0)
        # Until the journal is closed, these answers are only in SQLite's log.
        keep_answers(journal, range(50, 60))
        shutil.copytree(registry.root, folder / "kept", ignore=shutil.ignore_patterns("*-shm"))
    return folder / "kept"


def keep_answers(journal: Journal, numbers: range) -> None:
    """Put answers and notes into a journal, each in its own transaction."""

    async def put() -> None:
        for number in numbers:
            await journal.put(f"{number:064x}", Completion(text=f"answer {number} " * 20))
            await journal.note(f"note {number:03}", f"what is known of {number} " * 5)

    asyncio.run(put())


def add_models(registry: Registry) -> VersionRef:
    """A model that saw rows of demo/cut.long, and a later version that is removed, whose number and objects remain."""
    parent = registry.manifest("demo/cut.long", 1)
    run = registry.catalog.begin_run("train", {})
    made = []
    for number in (1, 2):
        weights = registry.store.put_bytes(random.Random(number).randbytes(3000))
        file = StoredFile(name="weights", sha256=weights.sha256, bytes=weights.bytes)
        table = Model.to_table([Model(base_model="tiny", format="full", files=[file], config="{}")])
        rows = registry.store.put_table(table)
        seen = pa.table({"input": [0] * 50, "parent_row": range(50), "times_seen": [number] * 50}, schema=side_schemas.EXPOSURE)
        exposure = registry.store.put_table(seen, delta=("parent_row",))
        key = registry.store.put_bytes(json.dumps({"seed": number, "params": {"text": "abc " * 50}}).encode())
        draft = Draft(
            name="train/model",
            kind="model",
            type="Model",
            fields=fields_of(Model.arrow_schema()),
            content_id=content_id(Model.arrow_schema(), [table]),
            pipeline="train",
            step="model",
            op="train",
            output="",
            step_key=f"key {number}",
            key_object=DataObject(sha256=key.sha256, rows=0, bytes=key.bytes),
            inputs=(parent.ref,),
            data=(DataObject(sha256=rows.sha256, rows=1, bytes=rows.bytes),),
            side=(SideObject(kind="exposure", sha256=exposure.sha256, rows=50, bytes=exposure.bytes),),
            attachments=(DataObject(sha256=weights.sha256, rows=0, bytes=weights.bytes),),
        )
        made += registry.catalog.commit([draft], run, None)
    registry.catalog.end_run(run, "succeeded", refs={"train/model": 1})
    registry.catalog.forget([made[1].version_id])
    return made[0].ref


RECEIPT = "[0-9a-f]" * 64 + ".json"
"""The pattern of the file of a receipt."""


def files_by_kind(root: Path) -> dict[str, list[str]]:
    """The files of a registry by kind, without those that running processes use as signals."""
    registry = Registry(root)
    kinds: dict[str, str] = {}
    for manifest in manifests(registry):
        named = [("rows", part) for part in manifest.data] + [(part.kind, part) for part in manifest.side]
        named += [("key document", manifest.key_object)] + [("model file", part) for part in manifest.attachments]
        kinds |= {part.sha256: kind for kind, part in named}
    patterns = {"manifest": "manifests/*", "run journal": "runs/*.ndjson", "pin": "pins/*", "number": "numbers/*"}
    patterns |= {"receipt": f"receipts/*/{RECEIPT}", "answers": "journal/*.sqlite", "last answers": "journal/*-wal"}
    patterns |= {"catalog": "registry.duckdb"}
    found = {kind: sorted(root.glob(pattern)) for kind, pattern in patterns.items()}
    for path in sorted(root.glob("objects/*/*")):
        found.setdefault(kinds.get(path.name, "left over"), []).append(path)
    signs = [
        *root.glob("receipts/*/*"),
        *root.glob("**/*lock"),
        *root.glob("registry.lock.holder"),
        root / "registry.intent",
        root / "registry.readers",
    ]
    rest = {path for path in root.rglob("*") if path.is_file()} - {
        *signs,
        *(path for paths in found.values() for path in paths),
    }
    assert not rest, f"what are {rest}?"
    return {kind: [path.relative_to(root).as_posix() for path in paths] for kind, paths in found.items()}


def manifests(registry: Registry) -> list[Manifest]:
    """Of all versions."""
    with registry.session() as session:
        return [registry.manifest(*row) for row in session.ask("select name, version from versions").rows]


# -- reading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Known:
    """Everything that can be read in a registry."""

    versions: list[Manifest]
    receipts: list[tuple[str, str]]
    keys: list[str]
    notes: list[str]

    @classmethod
    def of(cls, root: Path) -> Known:
        """The contents of an undamaged registry."""
        registry = Registry(root)
        with closing(sqlite3.connect(root / "journal" / "answers.sqlite")) as journal:
            keys = [key for (key,) in journal.execute("select key from answers order by key")]
            notes = [name for (name,) in journal.execute("select name from notes order by name")]
        receipts = []
        for path in sorted(registry.receipts.glob(f"*/{RECEIPT}")):
            receipts.append((path.parent.name, path.stem))
        return cls(manifests(registry), receipts, keys, notes)


def readings(root: Path, there: Known, *, exports: bool) -> dict[str, Any]:
    """What commands and programs read from a registry, part by part; REFUSED if that is an error."""
    registry = Registry(root)
    readings: dict[str, Any] = {}

    def read(name: str, reading: Callable[..., Any], *arguments: Any) -> None:
        try:
            readings[name] = reading(*arguments)
        except (CorruptError, EngineError, sqlite3.Error):
            readings[name] = REFUSED

    def look_around() -> None:
        with registry.session() as session:
            for view in VIEWS:
                read(f"view {view}", lambda query: sorted(session.ask(query).rows, key=repr), f"from {view}")
            for name, version in [(each.name, each.version) for each in there.versions]:
                target = f"{name}@{version}"
                read(f"sql {target}", lambda query: session.ask(query).rows, f'from "{target}"')
                read(f"trace {target}", lambda query: session.ask(query).rows, f"from trace('{target}', 0)")
                read(f"table {target}", session.table, target)
                read(f"records of {target}", session.records_at, Version(name, version), [0])

    read("session", look_around)
    for each in there.versions:
        read(f"manifest {each.ref}", registry.catalog.manifest, each.version_id)
        read(f"key document of {each.ref}", registry.store.read_bytes, each.key_object.sha256)
    if exports:
        read("export", exported, registry, "demo/say@1")
    for key, digest in there.receipts:
        read(f"receipt {key} {digest}", Receipts.of(registry, key).read, digest)

    def look_up() -> None:
        with closing(Journal(registry.journal)) as journal:
            for key in there.keys:
                read(f"answer {key}", journal.find, [key])
            for name in there.notes:
                read(f"note {name}", lambda name: asyncio.run(journal.notes(name)), name)

    read("journal", look_up)
    return readings


def exported(registry: Registry, target: str) -> dict[str, bytes]:
    """The files that an export writes."""
    folder = registry.root / "exported"
    try:
        export(registry, target, "jsonl", folder)
        return {path.name: path.read_bytes() for path in folder.iterdir()}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# -- flipping ---------------------------------------------------------------------------------------------------------

EDGE = 100
"""The bytes at the beginning and the end of a file, where its structure is."""


def flips(root: Path, count: int, seed: int) -> Iterator[Flip]:
    """Flips in files of every kind (more in formats that are not ours): anywhere, in used parts, at the edges."""
    chance = random.Random(seed)
    kinds = files_by_kind(root)
    shares = [*kinds, "answers", "answers", "answers", "last answers", "catalog", "catalog"]
    for number in range(count):
        kind = shares[number % len(shares)]
        file = chance.choice(kinds[kind])
        data = (root / file).read_bytes()
        used = [position for position, byte in enumerate(data) if byte]
        edge = min(len(data), EDGE)
        edges = [*range(edge), *range(len(data) - edge, len(data))]
        position = chance.choice(chance.choice([range(len(data)), used, edges]))
        yield Flip(kind, file, position, sum(1 << bit for bit in chance.sample(range(8), chance.choice([1, 1, 1, 2, 3]))))


def examine(whole: Path, scratch: Path, flips: Sequence[Flip]) -> list[Outcome]:
    """Try flips, each on a fresh copy."""
    copy = scratch / "copy"
    shutil.copytree(whole, copy)
    assert fsck(Registry(copy), deep=True).errors == []
    there = Known.of(copy)
    before = readings(copy, there, exports=True)
    assert REFUSED not in before.values()
    outcomes = []
    for flip in flips:
        shutil.rmtree(copy)
        shutil.copytree(whole, copy)
        data = bytearray((copy / flip.file).read_bytes())
        data[flip.position] ^= flip.mask
        (copy / flip.file).write_bytes(data)
        found = [f"{finding.where}: {finding.what}" for finding in fsck(Registry(copy), deep=True).errors]
        after = readings(copy, there, exports=flip.file.startswith(("objects/", "manifests/")))
        compared = [name for name in before if name != "export" or name in after]
        refused = [name for name in compared if after.get(name, REFUSED) == REFUSED or is_asked_again(name, after[name])]
        wrong = [name for name in compared if name not in refused and after[name] != before[name]]
        outcomes.append(Outcome(flip, found, refused, wrong))
    return outcomes


def is_asked_again(name: str, readings: Any) -> bool:
    """Whether nothing was found, so that part of a step runs again, or a server or model is asked again."""
    return (name.startswith("receipt ") and readings is None) or (name.startswith(("answer ", "note ")) and readings == {})


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("count", [24, pytest.param(600, marks=pytest.mark.soak)])
def test_every_flipped_bit_is_reported_or_harmless(whole: Path, tmp_path: Path, count: int) -> None:
    chosen = list(flips(whole, count, seed=count))
    # DuckDB or SQLite may crash on a damaged file, so they read it in another process.
    theirs = [flip for flip in chosen if flip.kind in ("answers", "last answers", "catalog")]
    ours = [flip for flip in chosen if flip not in theirs]
    with ProcessPoolExecutor(1, get_context("spawn")) as apart:
        waiting = apart.submit(examine, whole, tmp_path / "theirs", theirs)
        outcomes = examine(whole, tmp_path / "ours", ours) + waiting.result()
    assert [outcome for outcome in outcomes if outcome.wrong] == [], "somebody read what was never written"
    assert [outcome for outcome in outcomes if outcome.refused and not outcome.found] == [], "fsck sees less than readers"
    seen = Counter(outcome.flip.kind for outcome in outcomes if outcome.found)
    for kind, flipped in Counter(flip.kind for flip in chosen).items():
        print(f"{kind}: {flipped} flips, {seen[kind]} found by fsck, {flipped - seen[kind]} harmless")
    # Files of databases have pages that are not in use.
    assert seen.keys() | {"answers", "catalog"} == files_by_kind(whole).keys()
