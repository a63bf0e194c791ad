"""A plan that is made again needs not read the rows again, and never shows what was true before something changed."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.cli.opening import checked_pipeline, planned
from engine.cli.plan_view import plan_rows
from engine.errors import PipelineError
from engine.packages.local_modules import use_local_modules
from engine.pipeline.check import check
from engine.planning import remembered
from engine.planning.sources import plan_source
from engine.previewing import prompts
from engine.sources import ingest
from registry import Registry
from registry.records.content import row_ids
from tests.engine.run_pipelines import ask, run_text

OPERATORS = '''
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from pydantic import field_validator

from engine.operator import ChatModel, Generator, Params, Record, operator

from wording import ask


class Line(Record):
    """A line."""

    text: str
    by: str = ""

    @field_validator("text")
    @classmethod
    def shortened(cls, text: str) -> str:
        return text[:40]


class Ask(Params):
    """How to ask."""

    words: str = "Say"

    def calls(self) -> dict[str, int]:
        return {"teacher": 1}


@operator
async def shouted(line: Line) -> AsyncIterator[Line]:
    """Shout each line."""
    yield Line(text=line.text.upper())


@operator
async def asked(line: Line, teacher: ChatModel, params: Ask) -> AsyncIterator[Line]:
    """Ask about each line."""
    yield Line(text=(await teacher.chat(ask(params.words, line.text))).text)


def counted(task: str, limit: int, seed: int, settings: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Numbers in words."""
    for number in range(limit):
        yield {"text": f"{settings.get('before', 'number')} {number + seed % 7}"}


numbers = Generator("numbers", counted, lambda task, settings: [], lambda: "numbers 1")
'''
WORDING = """
def ask(words: str, text: str) -> str:
    return f"{words}: {text}"
"""
PIPELINE: dict[str, Any] = {
    "name": "demo",
    "operators": ["ops.py", "wording.py"],
    "models": {"teacher": {"provider": "openai", "base_url": "http://127.0.0.1:9/v1", "model": "m", "max_tokens": 50}},
    "datasets": {
        "lines": {"type": "Line", "path": "lines.jsonl"},
        "made": {"type": "Line", "generator": "numbers/any", "limit": 4},
    },
    "steps": {"one": {"op": "asked", "in": "lines"}, "two": {"op": "asked", "in": "made"}},
}
LINES = '{"text": "first", "note": "x"}\n{"text": "second"}\n'


@pytest.fixture(autouse=True)
def _no_modules_stay() -> Iterator[None]:
    yield
    use_local_modules(())


@pytest.fixture
def cache(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of what plans remember; the pipeline is where the test stands."""
    monkeypatch.setenv("ENGINE_CACHE", str(workdir / "cache"))
    Path("ops.py").write_text(OPERATORS)
    Path("wording.py").write_text(WORDING)
    Path("lines.jsonl").write_text(LINES)
    write()
    return workdir / "cache" / "plans"


@pytest.fixture
def work(cache: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What plans read and count, as it happens."""
    done: list[str] = []
    read, count = ingest.ingest, prompts.bounds_of_prompts

    def reads(name: str, *arguments: Any) -> ingest.Ingested:
        done.append(f"read {name}")
        return read(name, *arguments)

    def counts(pipeline: Any, plans: Any, registry: Registry) -> Any:
        done.extend(f"count {each.name}" for each in plans)
        return count(pipeline, plans, registry)

    monkeypatch.setattr(ingest, "ingest", reads)
    monkeypatch.setattr(prompts, "bounds_of_prompts", counts)
    return done


ALL = ["read lines", "read made", "count one", "count two"]


def write(**changes: Any) -> None:
    """Write the pipeline; `a__b=1` changes `b` of `a`."""
    made = json.loads(json.dumps(PIPELINE))
    for path, value in changes.items():
        *above, last = path.split("__")
        place = made
        for each in above:
            place = place.setdefault(each, {})
        place[last] = value
    Path("p.yaml").write_text(json.dumps(made))


def plan() -> list[dict[str, Any]]:
    """What `engine plan p.yaml --json` says."""
    checked = checked_pipeline("p.yaml", None, ".engine", "")
    return plan_rows(planned(checked, Registry(".engine"), set(), set(), why=False), None)


def test_the_second_plan_reads_nothing_and_says_the_same(work: list[str], workdir: Path) -> None:
    before = {*os.listdir()} | {"cache"}
    first = plan()
    assert work == ALL
    work.clear()
    assert plan() == first
    assert work == []
    assert {*os.listdir()} == before, "a plan leaves nothing where the user stands"
    assert [(row["step"], row["rows"], row["ignored_fields"]) for row in first[:2]] == [("lines", 2, ["note"]), ("made", 4, [])]
    assert first[2]["max_tokens"] == len("Say: firstSay: second") + 2 * (16 + 50)
    assert first[2]["shared_prompts"] == [{"role": "teacher", "characters": 5, "length": 10.5, "share": 0.4762}]


def append() -> None:
    with Path("lines.jsonl").open("a") as file:
        file.write('{"text": "third"}\n')


def same_size_and_time() -> None:
    file = Path("lines.jsonl")
    about = file.stat()
    file.write_text(LINES.replace("first", "other").replace('"note"', '"more"'))
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (about.st_size, about.st_mtime_ns)


def edit(old: str, new: str, file: str = "ops.py") -> Callable[[], None]:
    def change() -> None:
        text = Path(file).read_text()
        assert old in text
        Path(file).write_text(text.replace(old, new))

    return change


def exclude() -> None:
    """Exclude the first line."""
    pipeline, elsewhere = check(Path("p.yaml")), Registry("elsewhere")
    read = plan_source(pipeline, pipeline.sources["lines"], elsewhere)
    [first, _] = row_ids(elsewhere.store.read_table(read.input.data[0].sha256))
    Path("left-out.jsonl").write_text(json.dumps({"dataset": "demo/lines", "row_id": first}) + "\n")
    write(exclude="left-out.jsonl")


CHANGES: dict[str, tuple[Callable[[], object], str]] = {
    "a row more": (append, "read lines, count one"),
    "other rows in a file of the same size and time": (same_size_and_time, "read lines, count one"),
    "a validator of the record type": (edit("text[:40]", "text[:4]"), "read lines, read made, count one, count two"),
    "what a generator yields": (edit("number + seed % 7}", "number + 1000}"), "read made, count two"),
    "the version of a generator": (edit('"numbers 1"', '"numbers 2"'), "read made"),
    "a setting of a generator": (lambda: write(datasets__made__with={"before": "No."}), "read made, count two"),
    "a limit": (lambda: write(datasets__made__limit=2), "read made, count two"),
    "the seed": (lambda: write(seed=12), "read made, count one, count two"),
    "a renamed column": (lambda: write(datasets__lines__rename={"note": "by"}), "read lines, count one"),
    "what happens to rows that do not fit": (lambda: write(datasets__lines__on_error="skip"), "read lines"),
    "an excluded row": (exclude, "read lines, count one"),
    "a default": (lambda: write(datasets__lines__defaults={"text": "none"}), "read lines"),
    "a parameter": (lambda: write(steps__one__with={"words": "Tell me"}), "count one"),
    "the code of an operator": (edit("params.words, line", "params.words * 2, line"), "count one, count two"),
    "a helper": (edit("{words}: ", "{words}, please: ", "wording.py"), "count one, count two"),
    "what an operator says about its calls": (edit('"teacher": 1}', '"teacher": 3}'), "count one, count two"),
    "the longest answer": (lambda: write(models__teacher__max_tokens=7), "count one, count two"),
    "a price": (lambda: write(models__teacher__price={"input": 1.0, "output": 2.0}), "count one, count two"),
    "a system message": (lambda: write(models__teacher__system="Be short"), "count one, count two"),
    "another model": (lambda: write(models__teacher__model="n"), "count one, count two"),
}
"""What the user changes, and what has to be done again."""


@pytest.mark.parametrize(("change", "again"), CHANGES.values(), ids=CHANGES)
def test_after_a_change_the_plan_is_that_of_an_empty_cache(
    work: list[str], monkeypatch: pytest.MonkeyPatch, change: Callable[[], object], again: str
) -> None:
    plan()
    change()
    work.clear()
    changed = plan()
    assert {*again.split(", ")} <= {*work}
    assert {each for each in work if each.startswith("count")} == {
        each for each in again.split(", ") if each.startswith("count")
    }
    work.clear()
    assert plan() == changed
    assert work == []
    monkeypatch.setenv("ENGINE_CACHE", "another-cache")
    assert plan() == changed
    assert work == ALL


def test_a_comment_changes_nothing(work: list[str]) -> None:
    first = plan()
    edit('    """Ask about each line."""', "    # We only ask.")()
    work.clear()
    assert plan() == first
    assert work == []


@pytest.mark.parametrize("part", range(len(remembered._PACKAGES) + 3))
def test_another_engine_python_or_package_finds_nothing(work: list[str], monkeypatch: pytest.MonkeyPatch, part: int) -> None:
    plan()
    work.clear()
    found = remembered._computed_by()
    place = part if part < len(remembered._PACKAGES) + 1 else -1 - (part - len(remembered._PACKAGES))
    monkeypatch.setattr(remembered, "_COMPUTED_BY", [*found[:place], "other", *found[place:][1:]])
    plan()
    assert work == ALL


def test_what_computes_the_findings_is_every_file_of_the_engine(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    file = tmp_path / "deep" / "one.py"
    file.write_text("x = 1\n")
    [before] = remembered._files(str(tmp_path))
    file.write_text("x = 12\n")
    assert [*remembered._files(str(tmp_path))] != [before]
    assert sum(Path(line.split("'")[1]).name == "ingest.py" for line in remembered._computed_by()[9:] if line) == 1


def test_an_error_is_found_again(work: list[str]) -> None:
    write(datasets__lines__allow_empty=True)
    Path("lines.jsonl").write_text("")
    assert plan()[0]["rows"] == 0
    write()
    for _ in range(2):
        with pytest.raises(PipelineError, match="is empty"):
            plan()
    Path("lines.jsonl").write_text(LINES + '{"note": "no text"}\n')
    for _ in range(2):
        with pytest.raises(PipelineError, match="text is missing"):
            plan()


@pytest.mark.parametrize("seed", range(30))
def test_damaged_and_exchanged_entries_are_the_same_as_none(cache: Path, work: list[str], seed: int) -> None:
    first = plan()
    draw, entries = random.Random(seed), sorted(cache.iterdir())
    assert len(entries) == 4
    if seed < 2:
        for one, other in zip(entries, [*entries[1:], entries[0]], strict=True):
            one.rename(f"{other}.new")
        for each in entries:
            Path(f"{each}.new").rename(each)
    for each in entries if seed >= 2 else ():
        content = bytearray(each.read_bytes())
        place = draw.randrange(len(content))
        if seed % 2:
            content[place] ^= 1 << draw.randrange(8)
        else:
            del content[place:]
        each.write_bytes(content)
    work.clear()
    assert plan() == first
    assert work == ALL
    work.clear()
    assert plan() == first
    assert work == [], "they were written again"


@pytest.mark.parametrize("content", ["null", "[]", '{"calls": "many"}', '{"content_id": "../../x", "data": []}'])
def test_an_entry_that_says_something_else_is_not_used(work: list[str], monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    """Its checksum is right: another program of the user wrote it."""
    write_entry = remembered.Entries.write
    with monkeypatch.context() as patch:
        patch.setattr(
            remembered.Entries,
            "write",
            lambda self, name, follows_from, _: write_entry(self, name, follows_from, content.encode()),
        )
        first = plan()
    work.clear()
    assert plan() == first
    assert work == ALL


@pytest.mark.parametrize("trouble", ["a file above", "a file", "writable by others", "a link"])
def test_without_a_cache_every_plan_reads(cache: Path, work: list[str], trouble: str) -> None:
    if trouble == "a file above":
        cache.parent.touch()
    else:
        cache.parent.mkdir()
    if trouble == "a file":
        cache.touch()
    elif trouble == "writable by others":
        cache.mkdir()
        cache.chmod(0o777)
    elif trouble == "a link":
        Path("elsewhere").mkdir()
        cache.symlink_to(Path("elsewhere").absolute())
    assert plan() == plan()
    assert work == ALL * 2
    assert not Path("elsewhere").exists() or not os.listdir("elsewhere")


def test_no_row_and_no_key_is_remembered(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "secret-of-mine")
    write(models__teacher__api_key_env="SECRET_KEY", models__teacher__system="private words")
    Path("lines.jsonl").write_text('{"text": "a private row", "note": "n"}\n')
    plan()
    texts = [each.read_text() for each in cache.iterdir()]
    assert len(texts) == 4
    assert not [text for text in texts if "private" in text or "secret" in text]


def test_two_plans_at_once_say_the_same(work: list[str]) -> None:
    command = [sys.executable, "-m", "engine.cli", "plan", "p.yaml", "--json"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [each.communicate() for each in both]
    assert [each.returncode for each in both] == [0, 0], said
    assert json.loads(said[0][0]) == json.loads(said[1][0]) == plan()
    assert work == [], "another process finds what they read"


SHOUT = {"one": {"op": "shouted", "in": "lines"}}


@pytest.mark.usefixtures("in_process")
def test_a_run_reads_the_rows_itself(work: list[str], registry: Registry) -> None:
    write(steps=SHOUT)
    planned_rows = plan()[0]["rows"]
    work.clear()
    assert run_text(Path("p.yaml").read_text(), registry).state == "succeeded"
    assert work == ["read lines", "read made"]
    assert ask(registry, "select rows from datasets where name = 'demo/lines'") == [(planned_rows,)]
    assert {row["status"] for row in plan()} == {"HIT"}


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("loss", ["none", "removed", "damaged"])
def test_rows_that_a_plan_needs_are_read_again_if_they_are_gone(work: list[str], registry: Registry, loss: str) -> None:
    """Where an earlier run has finished a part of a step, a plan looks at all rows."""
    write(steps=SHOUT)
    run_text(Path("p.yaml").read_text(), registry)
    before = {each.sha256 for each in registry.store.listing()}
    append()
    first = plan()
    new = [registry.store.path(each.sha256) for each in registry.store.listing() if each.sha256 and each.sha256 not in before]
    assert new
    for file in new:
        if loss == "removed":
            file.unlink()
        elif loss == "damaged":
            size = file.stat().st_size
            file.unlink()
            file.write_bytes(bytes(size))
    work.clear()
    assert plan() == first
    assert work == ([] if loss == "none" else ["read lines"])


def test_rows_of_an_edited_step_are_taken_from_the_registry(work: list[str], registry: Registry) -> None:
    registry.catalog.rebuild()
    plan()
    write(steps__one__with={"words": "Tell me"})
    work.clear()
    plan()
    assert work == ["count one"]
