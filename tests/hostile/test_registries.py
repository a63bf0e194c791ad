"""A registry that someone damaged or crafted: every command gives the right data or an error that says where, and nothing
outside the registry is read into it, changed or deleted.
"""

from __future__ import annotations

import io
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pytest
import typer

from engine.cli import app as command_line
from registry import DataObject, Registry, SideObject, StepRun
from registry.catalog import side_schemas
from registry.errors import UnfitError
from registry.storage.checked_json import canonical_json, checked_json, json_digest
from tests.registry.catalog.test_catalog import commit, draft

SOAK_CASES = 300
SECRET = "nobody's business"


class Ran(NamedTuple):
    """The outcome of a command."""

    code: int
    out: str
    err: str


def ran(root: Path, *arguments: str) -> Ran:
    """A command in this process, its errors explained as on the command line."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = command_line.app(["--registry", str(root), *arguments], standalone_mode=False) or 0
        except typer.Exit as stop:
            code = stop.exit_code
        except Exception as error:
            code = command_line._explain(error)
    return Ran(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module", autouse=True)
def _patched() -> Iterator[None]:
    """Do not limit the memory of the process, as `engine sql` does, because here it is that of the tests; wait briefly for locks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("registry.query.limits.limit_memory", lambda size: None)
        patch.setenv("ENGINE_LOCK_SECONDS", "5")
        yield


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three versions with lineage and a model call, a pin, the number of a removed version, an unfinished step."""
    registry = Registry(tmp_path_factory.mktemp("kept") / "registry")
    key = registry.store.put_bytes(b"{}")
    keyed = {"key_object": DataObject(sha256=key.sha256, rows=0, bytes=key.bytes)}
    [first] = commit(registry, draft(registry, "p/a", ["x", "y", "z"], "k1").model_copy(update=keyed))
    calls: dict[str, Any] = {"local_row": [0], "call_id": ["c"], "role": ["teacher"], "model": ["m"], "prompt": ["[]"]}
    calls |= {"response": ["r"], "tokens_in": [1], "tokens_out": [1], "latency_ms": [1.0], "cost_usd": [0.0]}
    import pyarrow as pa

    stored = registry.store.put_table(
        pa.Table.from_pylist([{name: value for name, [value] in calls.items()}], schema=side_schemas.CALLS)
    )
    second = draft(registry, "p/b", ["Z", "X"], "k2", [first.ref], "20")
    call = SideObject(kind="calls", sha256=stored.sha256, rows=1, bytes=stored.bytes)
    commit(registry, second.model_copy(update={"side": (*second.side, call), **keyed}))
    run = registry.catalog.begin_run("p", {})
    [gone] = registry.catalog.commit([draft(registry, "p/gone", "g", "k")], run, StepRun(step="s", op="o", outcome="ran"))
    registry.catalog.end_run(run, "failed")
    registry.catalog.pin("p/a", 1)
    registry.catalog.forget([gone.version_id])
    step = registry.receipts / ("ab" * 32)
    (step / "checkpoints").mkdir(parents=True)
    (step / "checkpoints" / "weights").write_bytes(b"paid for")
    (step / "0-16.begun").write_bytes(b".")
    ran(registry.root, "fsck")  # makes the files of locks
    return registry.root


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder next to the registry that must not be touched."""
    folder = tmp_path / "outside"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "file").write_text(SECRET)
    (folder / "0-16.json").write_text(SECRET)
    (folder / "x.tmp").write_text(SECRET)
    return folder


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


def copied(kept: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(kept, tmp_path / "registry"))


# -- crafted files ----------------------------------------------------------------------------------------------------


def reseal(journal: Path, place: int, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the event in a line of a run journal, and give the line a valid checksum."""
    lines = journal.read_bytes().splitlines()
    document = json.loads(lines[place])
    facet = document["run"]["facets"]["engine"]
    del facet["sha256"]
    change(facet["event"])
    facet["sha256"] = json_digest(document)
    journal.write_bytes(b"".join(line + b"\n" for line in [*lines[:place], canonical_json(document), *lines[place + 1 :]]))


def journal_of_step(root: Path) -> tuple[Path, int]:
    """A run journal and the line in it that is about a step."""
    for journal in sorted((root / "runs").glob("*.ndjson")):
        for place, line in enumerate(journal.read_bytes().splitlines()):
            if json.loads(line)["run"]["facets"]["engine"]["event"]["event"] == "step":
                return journal, place
    raise AssertionError("no journal of a step")


def brick(root: Path, **counts: Any) -> str:
    """Do what an engine before 0.3 did with an absurd usage: seal it, and leave the catalog to be rebuilt."""
    journal, place = journal_of_step(root)
    reseal(journal, place, lambda event: event["step"].update(counts))
    (root / "registry.duckdb").unlink()
    return journal.name


COMMANDS = (
    ("ls", "--json"),
    ("head", "p/b@1", "--json"),
    ("show", "p/b@1", "--json"),
    ("lineage", "p/b@1", "--row", "0", "--json"),
    ("sql", "select name, version, row, response from llm_calls", "--json"),
    ("impact", "p/a@1", "--where", "word = 'z'", "--json"),
    ("runs", "--json"),
    ("fsck",),
    ("gc",),
)
EXACT = ("head", "show", "lineage", "impact")
"""The output of these, when they succeed, does not depend on losses elsewhere."""


def files_of(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file() and path.stat().st_size)


def flip(root: Path, outside: Path, draw: random.Random) -> None:
    path = draw.choice(files_of(root))
    data = bytearray(path.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


def truncate(root: Path, outside: Path, draw: random.Random) -> None:
    path = draw.choice(files_of(root))
    os.truncate(path, draw.randrange(path.stat().st_size))


def swap(root: Path, outside: Path, draw: random.Random) -> None:
    folder = draw.choice([folder for folder in ("manifests", "runs") if len(list((root / folder).iterdir())) > 1])
    one, other = draw.sample(sorted((root / folder).iterdir()), 2)
    data = one.read_bytes(), other.read_bytes()
    one.write_bytes(data[1])
    other.write_bytes(data[0])


def remove(root: Path, outside: Path, draw: random.Random) -> None:
    draw.choice(files_of(root)).unlink()


def link_file(root: Path, outside: Path, draw: random.Random) -> None:
    path = draw.choice(files_of(root))
    path.unlink()
    path.symlink_to(outside / "deep" / "file")


def link_folder(root: Path, outside: Path, draw: random.Random) -> None:
    path = draw.choice(sorted(path for path in root.rglob("*") if path.is_dir()))
    shutil.rmtree(path)
    path.symlink_to(outside, target_is_directory=True)


def pipe(root: Path, outside: Path, draw: random.Random) -> None:
    path = draw.choice(files_of(root))
    path.unlink()
    os.mkfifo(path)


def plant(root: Path, outside: Path, draw: random.Random) -> None:
    names = ("registry.lock.holder", "registry.lock", "registry.readers", "objects.lock", "registry.intent")
    names += ("registry.duckdb.wal", "receipts/planted", "x.damaged-1", "manifests/.x.tmp", "journal")
    path = root / draw.choice(names)
    path.unlink(missing_ok=True)
    path.symlink_to(outside if path.name in ("planted", "x.damaged-1", "journal") else outside / "x.tmp")


def craft_run(root: Path, outside: Path, draw: random.Random) -> None:
    journal = draw.choice(sorted((root / "runs").glob("*.ndjson")))
    name = draw.choice(["../../outside/x", "/etc/passwd", "..", "a/b", "x\0y", "", "a" * 5000])
    reseal(journal, 0, lambda event: event.update(run_id=name))
    (root / "registry.duckdb").unlink()


def craft_number(root: Path, outside: Path, draw: random.Random) -> None:
    value = draw.choice([2**63, 2**62, -1, 10**30, "x", None, 1.5, [1], {}])
    brick(root, **{draw.choice(["tokens_in", "tokens_out", "calls", "rows_in", "cost_usd", "step"]): value})


def craft_manifest(root: Path, outside: Path, draw: random.Random) -> None:
    path = draw.choice(sorted((root / "manifests").iterdir()))
    body = json.loads(path.read_bytes())["body"]
    what = draw.choice(["rows", "version", "sha256", "name", "id", "created_at", "deep"])
    if what in ("rows", "sha256"):
        body["data"][0][what] = draw.choice([2**63, 2**70, -5, "../../outside/x"])
    elif what != "deep":
        body[what] = draw.choice([2**31, 2**70, "../../outside/x", "0001-01-01T00:00:00+14:00"])
    path.write_bytes(b"[" * 100_000 if what == "deep" else checked_json(body))
    (root / "registry.duckdb").unlink()


def craft_mark(root: Path, outside: Path, draw: random.Random) -> None:
    path = next((root / draw.choice(["pins", "numbers"])).iterdir())
    body = json.loads(path.read_bytes())["body"]
    body[draw.choice(["name", "version", "other"])] = draw.choice([2**70, "../../x", None, [], "p/other"])
    path.write_bytes(checked_json(body))
    (root / "registry.duckdb").unlink()


def craft_intent(root: Path, outside: Path, draw: random.Random) -> None:
    intent: dict[str, Any] = {"versions": [], "runs": [], "marks": False, "everything": False}
    intent[draw.choice([*intent])] = draw.choice([["../../outside/x"], [2**70], None, "../x", {}])
    (root / "registry.intent").write_bytes(checked_json(intent))


MUTATIONS = (
    flip,
    truncate,
    swap,
    remove,
    link_file,
    link_folder,
    pipe,
    plant,
    craft_run,
    craft_number,
    craft_manifest,
    craft_mark,
    craft_intent,
)


@pytest.fixture(scope="module")
def right(kept: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What commands print for the undamaged registry."""
    root = copied(kept, tmp_path_factory.mktemp("right"))
    answers = {command[0]: ran(root, *command) for command in COMMANDS}
    assert {name: answer.code for name, answer in answers.items()} == dict.fromkeys(answers, 0), answers
    return {name: answer.out for name, answer in answers.items()}


@pytest.mark.parametrize(
    "seed",
    [*range(len(MUTATIONS)), *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(len(MUTATIONS), SOAK_CASES))],
)
def test_a_mutated_registry_returns_the_right_data_or_an_error(
    kept: Path, right: dict[str, str], tmp_path: Path, outside: Path, seed: int
) -> None:
    draw = random.Random(seed)
    root = copied(kept, tmp_path)
    mutation = MUTATIONS[seed % len(MUTATIONS)]
    mutation(root, outside, draw)
    before = tree(outside)
    for command in (*COMMANDS, ("gc", "--delete", "--grace", "0"), ("rebuild",), ("fsck", "--deep")):
        answer = ran(root, *command)
        case = f"{mutation.__name__} {command}: {answer}"
        assert "this is a bug" not in answer.err, case
        assert "Traceback" not in answer.err + answer.out, case
        assert SECRET not in answer.err + answer.out, case
        assert answer.code in (0, 1, 2), case
        assert answer.code == 0 or answer.err.startswith(("error: ", "WARNING: ")) or command[0] == "fsck", case
        if answer.code == 0 and command[0] in EXACT:
            assert answer.out == right[command[0]], case
        assert tree(outside) == before, case


# -- single faults ----------------------------------------------------------------------------------------------------


def test_a_registry_with_absurd_counts_is_readable_and_reports_what_is_left_out(
    kept: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = copied(kept, tmp_path)
    journal = brick(root, tokens_in=2**63 + 615, tokens_out=2**70)
    assert [version["name"] for version in json.loads(ran(root, "ls", "--json").out)] == ["p/a", "p/b"]
    assert f"{journal}, line 2, contains a value that the registry cannot store (step.tokens_in: " in caplog.text
    assert "moved" not in caplog.text  # nothing was called damaged
    checked = ran(root, "fsck")
    assert checked.code == 1
    assert f"error: runs/{journal}: line 2 contains a value that the registry cannot store" in checked.out
    assert ran(root, "gc").code == ran(root, "rebuild").code == ran(root, "runs").code == 0
    registry = Registry(root)
    assert commit(registry, draft(registry, "p/new", "n", "new"))[0].version == 1


@pytest.mark.parametrize("counts", [{"tokens_in": 2**63}, {"tokens_out": -1}, {"cost_usd": float("nan")}, {"calls": 2**53}])
def test_a_step_run_has_only_values_that_the_tables_can_store(counts: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(counts))):
        StepRun(step="s", op="o", outcome="ran", **counts)


def test_a_value_past_the_types_is_refused_before_anything_is_written(kept: Path, tmp_path: Path) -> None:
    registry = Registry(copied(kept, tmp_path))
    run = registry.catalog.begin_run("p", {})
    before = tree(registry.root / "runs") | tree(registry.root / "manifests")
    step = StepRun(step="s", op="o", outcome="ran").model_copy(update={"tokens_in": 2**70})
    with pytest.raises(UnfitError, match="table step_runs cannot store this"):
        registry.catalog.commit([], run, step)
    assert tree(registry.root / "runs") | tree(registry.root / "manifests") == before
    registry.catalog.end_run(run, "failed", "half a pair: \ud800")
    with registry.session() as session:
        assert session.ask("select error from runs where run_id = ?", [run]).rows == [("half a pair: \ufffd",)]


def test_calls_of_a_missing_object_are_left_out_and_reported(kept: Path, tmp_path: Path) -> None:
    root = copied(kept, tmp_path)
    registry = Registry(root)
    [of_calls] = [part for part in registry.manifest("p/b", 1).side if part.kind == "calls"]
    calls = registry.store.read_table(of_calls.sha256)
    more = registry.store.put_table(calls.set_column(1, "call_id", [["d"]]))
    extra = SideObject(kind="calls", sha256=more.sha256, rows=1, bytes=more.bytes)
    new = draft(registry, "p/c", "c", "k3")
    commit(registry, new.model_copy(update={"side": (extra,)}))
    registry.store.path(of_calls.sha256).unlink()
    answer = ran(root, "sql", "select call_id, name from llm_calls", "--json")
    assert (answer.code, json.loads(answer.out)) == (0, [{"call_id": "d", "name": "p/c"}])
    assert f"left out: object {of_calls.sha256} (calls of p/b@1) is missing" in answer.err
    assert ran(root, "head", "p/b").code == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("update versions set name = 'p/x' where name = 'p/b'", "confuses p/x@1 with p/b@1"),
        ("update versions set version_id = '../../outside/x' where name = 'p/b'", "is not the id of a version"),
        ("insert into versions from versions", "has 2 versions"),
        ("insert into runs select '../../outside/x', 'p', 'running', null, null, null, null, null", "is not the id of a run"),
    ],
)
def test_a_crafted_catalog_is_not_trusted(kept: Path, tmp_path: Path, outside: Path, change: str, said: str) -> None:
    root = copied(kept, tmp_path)
    with duckdb.connect(str(root / "registry.duckdb")) as con:
        con.execute(change)
    before = tree(outside)
    name = "p/x@1" if "p/x" in change else "p/b@1"
    answers = [ran(root, "head", name), ran(root, "show", name), ran(root, "runs")]
    assert said in "".join(answer.err for answer in answers)
    assert "this is a bug" not in "".join(answer.err for answer in answers)
    assert tree(outside) == before
    assert ran(root, "rebuild").code == 0
    assert ran(root, "head", "p/b@1").code == 0


def test_fsck_reports_a_lost_manifest_once(kept: Path, tmp_path: Path) -> None:
    root = copied(kept, tmp_path)
    lost = Registry(root).manifest("p/a", 1)
    (root / "manifests" / f"{lost.version_id}.json").unlink()
    said = ran(root, "fsck").out
    assert f"manifests/{lost.version_id}.json: is missing [p/a@1]" in said
    assert "that no version needs" not in said
    assert "rebuild the catalog from the other files" not in said
    (root / "registry.duckdb").unlink()
    said = ran(root, "fsck").out
    assert "error: manifests: lacks the manifest of a version [p/a@1]" in said
    assert "p/b@1 was made from it" in said
    assert "that no version needs" not in said


def test_gc_keeps_checkpoints_of_an_unfinished_training_and_removes_those_of_a_finished_one(kept: Path, tmp_path: Path) -> None:
    root = copied(kept, tmp_path)
    finished = root / "receipts" / "k1" / "checkpoints" / "step-1"
    finished.mkdir(parents=True)
    (finished / "weights").write_bytes(b"w")
    done = ran(root, "gc", "--delete", "--grace", "0")
    assert done.code == 0
    assert "checkpoints of 1 unfinished step (8 bytes)" in done.out
    assert not (root / "receipts" / "k1").exists()
    assert (root / "receipts" / ("ab" * 32) / "checkpoints" / "weights").read_bytes() == b"paid for"


@pytest.mark.parametrize(
    "arguments", [("head", "p/a", "-n", "9" * 30), ("gc", "--grace", "9" * 400 + "d"), ("head", "p/a@" + "9" * 5000)]
)
def test_absurd_numbers_cause_clear_errors(kept: Path, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    answer = ran(copied(kept, tmp_path), *arguments)
    assert answer.code in (0, 2)
    assert "this is a bug" not in answer.err


def _read_as_nobody(root: str, writable: str, answers: str) -> None:
    commands = (*(each for each in COMMANDS if each != ("gc",)), ("export", "p/b", "--to", "jsonl"))
    for number, command in enumerate(commands):
        # Python's own files may belong to another user as well, so everything is imported first.
        ran(Path(writable), *command, *([f"{writable}-{number}"] if command[0] == "export" else []))
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    made = [ran(Path(root), *each, *([f"{answers}/export"] if each[0] == "export" else [])) for each in commands]
    Path(answers, "answers.json").write_text(json.dumps(made))


def test_a_registry_of_someone_else_can_be_read(kept: Path, right: dict[str, str], tmp_path: Path) -> None:
    import tempfile

    from tests.registry.children import exit_code

    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        root, answers = Path(place, "registry"), Path(place, "answers")
        shutil.copytree(kept, root)
        answers.mkdir()
        for path in (Path(place), *root.rglob("*"), root):
            path.chmod(0o555 if path.is_dir() else 0o444)
        answers.chmod(0o777)
        try:
            assert exit_code(_read_as_nobody, str(root), str(copied(kept, tmp_path)), str(answers)) == 0
            made = [Ran(*each) for each in json.loads((answers / "answers.json").read_text())]
        finally:
            for path in (Path(place), root, *(path for path in root.rglob("*") if path.is_dir())):
                path.chmod(0o755)
    assert [(each.code, each.err) for each in made] == [(0, "")] * len(made)
    for command, each in zip(COMMANDS, made, strict=False):
        if command[0] in (*EXACT, "ls", "sql", "runs"):
            assert each.out == right[command[0]]


@pytest.mark.parametrize("name", ["data", "README.md", ".export.json", "data/train-00000-of-00001.parquet"])
def test_an_export_is_not_written_through_a_link(kept: Path, tmp_path: Path, outside: Path, name: str) -> None:
    root, folder = copied(kept, tmp_path), tmp_path / "out"
    export = ("export", "p/b", "--to", "parquet", str(folder), "--overwrite")
    assert ran(root, *export).code == 0
    assert ran(root, *export).code == 0
    planted = folder / name
    if planted.is_dir():
        shutil.rmtree(planted)
    else:
        planted.unlink()
    planted.symlink_to(outside if name == "data" else outside / "x.tmp")
    before = tree(outside)
    answer = ran(root, *export)
    assert answer.code == 2
    assert str(planted if name != ".export.json" else folder) in answer.err
    assert tree(outside) == before
