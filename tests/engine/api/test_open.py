"""`engine.open`: registries and their datasets, from a program."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import engine
from registry import IncompatibleError, Model, Record, Registry, Report, Session, StoredFile
from tests.engine.export.test_export import ROWS, Row, commit
from tests.engine.run_pipelines import run_text, words


class Word(Record):
    """As in scratch_ops."""

    text: str


class Nowhere(Record):
    """A type of no installed package."""

    text: str


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with words in two objects, and rows of all types."""
    registry = Registry(tmp_path_factory.mktemp("stored") / ".engine")
    commit(registry, "p/words", [[Word(text="one")], [Word(text="two"), Word(text="<script>three</script>")]])
    commit(registry, "p/words", [[Word(text="newer")]])
    commit(registry, "p/rows", [ROWS])
    commit(registry, "p/nowhere", [[Nowhere(text="x")]])
    return registry.root


@pytest.fixture
def opened(workdir: Path, stored: Path) -> engine.OpenRegistry:
    """A copy of it, in the test's working directory."""
    shutil.copytree(stored, workdir / ".engine")
    return engine.open()


def objects_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The objects that are opened after this call."""
    from registry import ObjectStore

    found: list[str] = []
    whole = ObjectStore.open

    def watched(store: ObjectStore, sha256: str) -> Any:
        found.append(sha256)
        return whole(store, sha256)

    monkeypatch.setattr(ObjectStore, "open", watched)
    return found


def test_a_version_is_known_without_reading_it(opened: engine.OpenRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    read = objects_read(monkeypatch)
    rows = opened["p/words@1"]
    assert (rows.ref, rows.name, rows.version, rows.kind, rows.type) == ("p/words@1", "p/words", 1, "dataset", "Word")
    assert (len(rows), dict(rows.fields), rows.metrics) == (3, {"text": "str"}, ())
    assert repr(rows) == "<p/words@1: dataset of Word, 3 rows; text: str>"
    assert read == []


def test_rows_in_every_form(opened: engine.OpenRegistry) -> None:
    rows = opened["p/words@1"]
    texts = ["one", "two", "<script>three</script>"]
    assert rows.schema == pa.schema([pa.field("text", pa.large_string(), nullable=False)])
    assert rows.arrow() == pa.table({"text": texts}, schema=rows.schema)
    assert rows.pandas()["text"].to_list() == texts
    assert rows.hf()["text"][:] == texts
    assert [row.text for row in rows.records(Word)] == texts
    assert rows.head(2) == [{"text": "one"}, {"text": "two"}]


def test_rows_with_fields_of_every_type(opened: engine.OpenRegistry) -> None:
    rows = opened["p/rows@1"]
    assert list(rows.records(Row)) == ROWS
    assert rows.hf().num_rows == 3
    assert rows.hf()[0]["turns"] == [{"role": "user", "tags": [{"key": "", "value": []}, {"key": "b c", "value": [1]}]}, None]
    frame = rows.pandas()
    assert frame["number"].to_list() == [row.number for row in ROWS]
    assert frame["turns"][0][0]["role"] == "user"


def addresses(array: Any) -> set[int]:
    """Where the data of an Arrow array is in memory."""
    return {buffer.address for chunk in getattr(array, "chunks", [array]) for buffer in chunk.buffers() if buffer}


def test_pandas_and_hugging_face_use_the_memory_of_the_arrow_table(
    opened: engine.OpenRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = opened["p/words@1"]
    table = rows.arrow()
    monkeypatch.setattr(engine.Dataset, "arrow", lambda self: table)
    assert addresses(rows.hf().data.column("text")) == addresses(table["text"])
    assert addresses(rows.pandas()["text"].array._pa_array) == addresses(table["text"])
    copied = rows.pandas(dtype_backend="numpy")
    assert copied["text"].dtype != rows.pandas()["text"].dtype
    with pytest.raises(ValueError, match="dtype_backend is 'np'; expected 'pyarrow' or 'numpy'"):
        rows.pandas(dtype_backend="np")  # type: ignore[arg-type]


def test_polars_uses_the_memory_of_the_arrow_table(opened: engine.OpenRegistry) -> None:
    pytest.importorskip("polars")
    assert opened["p/words@1"].polars()["text"].to_list()[0] == "one"
    assert opened["p/rows@1"].polars().height == 3


@pytest.mark.parametrize(
    ("module", "read", "package"),
    [
        ("polars", engine.Dataset.polars, "polars"),
        ("pandas", engine.Dataset.pandas, "pandas"),
        ("datasets", engine.Dataset.hf, r"posttrain-engine\[sources\]"),
    ],
)
def test_a_package_that_is_not_installed_is_named(
    opened: engine.OpenRegistry, monkeypatch: pytest.MonkeyPatch, module: str, read: Callable[[Any], Any], package: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(engine.EngineError, match=f"{module} is not installed: pip install '{package}'"):
        read(opened["p/words@1"])


def test_the_hugging_face_fingerprint_follows_from_the_content(opened: engine.OpenRegistry) -> None:
    rows = opened["p/words@1"]
    assert rows.hf()._fingerprint == rows.hf()._fingerprint == rows.content_id[:16]


def test_records_without_an_installed_type(opened: engine.OpenRegistry) -> None:
    [row] = opened["p/nowhere"].records()
    assert (type(row).type_name(), row.model_dump()) == ("Nowhere", {"text": "x"})
    assert list(opened["p/nowhere"].records(Nowhere)) == [Nowhere(text="x")]
    with pytest.raises(IncompatibleError, match="number"):
        opened["p/nowhere"].records(Row)


def test_records_have_their_fields_as_declared(workdir: Path, registry: Registry, in_process: None) -> None:
    Path("rows.jsonl").write_text('{"word": "x", "about": "y", "n": 1}\n')
    text = """
        name: declared
        types: {Row: {word: str, about: str, n: int}}
        datasets: {rows: {type: Row, path: rows.jsonl}}
        steps: {kept: {op: filter, in: rows, with: {where: "n > 0"}}}
    """
    assert run_text(text, registry).state == "succeeded"
    [row] = engine.open(registry.location)["declared/kept.kept"].records()
    assert list(row.model_dump()) == ["word", "about", "n"]


def test_the_installed_type_is_found(opened: engine.OpenRegistry) -> None:
    assert {type(row).__module__ for row in opened["p/words@1"].records()} == {"scratch_ops"}


def test_damage_is_noticed_by_every_way_to_read(opened: engine.OpenRegistry, registry: Registry) -> None:
    rows = opened["p/words@1"]
    path = registry.store.path(rows._manifest.data[0].sha256)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    for read in (rows.arrow, rows.pandas, rows.hf, rows.head, lambda: rows.schema, lambda: list(rows.records(Word))):
        with pytest.raises(engine.CorruptError, match="damaged"):
            read()
    with pytest.raises(engine.CorruptError, match="damaged"):
        opened.sql('select * from "p/words@1"')


def test_a_name_without_a_version_stays_at_what_was_the_latest(here: Path) -> None:
    engine.run("p.yaml", quiet=True)
    rows = engine.open()["demo/loud"]
    words("other")
    engine.run("p.yaml", quiet=True)
    assert (rows.ref, len(rows)) == ("demo/loud@1", 5)
    assert (engine.open()["demo/loud"].ref, engine.open()["demo/words"].head()) == ("demo/loud@2", [{"text": "other"}])


def test_unknown_names_and_versions_are_errors(opened: engine.OpenRegistry) -> None:
    with pytest.raises(KeyError) as caught:
        opened["p/word"]
    assert str(caught.value).endswith("named 'p/word'. Did you mean 'p/words'?")
    with pytest.raises(engine.QueryError, match="has no version 9; it has 1, 2"):
        opened["p/words@9"]
    with pytest.raises(TypeError, match="a version is named by a string such as 'gsm/rows@3', not by 3"):
        opened[3]  # type: ignore[index]
    assert "p/words" in opened
    assert "p/words@2" in opened
    assert "p/words@9" not in opened
    assert 3 not in opened


def test_a_registry_lists_what_it_has(here: Path) -> None:
    first = engine.run("p.yaml", quiet=True)
    second = engine.run("p.yaml", quiet=True)
    opened = engine.open(here / ".engine")
    assert list(opened) == ["demo/loud", "demo/parts.long", "demo/parts.short", "demo/words"]
    assert len(opened) == 4
    assert opened.datasets()[0]["latest_version"] == 1
    assert [run["run_id"] for run in opened.runs()] == [second.run_id, first.run_id]
    assert repr(opened) == f"<registry {here / '.engine'}: 4 names>"
    assert "demo/loud" in opened._repr_html_()


def test_a_name_without_a_latest_version_is_not_iterated(opened: engine.OpenRegistry, workdir: Path) -> None:
    registry = Registry(workdir / ".engine")
    commit(registry, "p/lost", [[Word(text="x")]])
    registry.catalog.end_run(registry.catalog.begin_run("p", {}), "succeeded", refs={"p/lost": 2})
    assert list(opened) == ["p/nowhere", "p/rows", "p/words"]
    assert [opened[name].ref for name in opened] == ["p/nowhere@1", "p/rows@1", "p/words@2"]
    assert len(opened) == 3
    assert "p/lost" not in opened
    assert [row["name"] for row in opened.datasets() if row["latest_version"] is None] == ["p/lost"]
    assert opened["p/lost@1"].head() == [{"text": "x"}]
    with pytest.raises(KeyError, match=r"'p/lost' has no latest version, because p/lost@2 is missing\. It has p/lost@1"):
        opened["p/lost"]


def test_no_registry(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(engine.PipelineError, match=r"(?s)there is no registry at .engine.*engine.open\(DIR\)"):
        engine.open()
    Registry(workdir / "here/.engine").catalog.rebuild()
    with pytest.raises(engine.PipelineError, match=r"did you mean 'here/.engine'"):
        engine.open("here")
    monkeypatch.setenv("ENGINE_REGISTRY", "here/.engine")
    assert list(engine.open()) == []
    assert "It is empty" in engine.open()._repr_html_()
    (workdir / "file").touch()
    with pytest.raises(engine.PipelineError, match="the registry file is a file, not a folder"):
        engine.open("file")


def test_sql_returns_an_arrow_table(opened: engine.OpenRegistry) -> None:
    assert opened.sql('select row, text from "p/words@1" where text like ?', ["t%"]).to_pylist() == [{"row": 1, "text": "two"}]
    assert opened.sql("select name from datasets where false").num_rows == 0
    assert opened.sql("from trace('p/words@1', 2)")["row"].to_pylist() == [2]
    assert "explain_value" in opened.sql("explain select 1").column_names


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("create table t (a int)", "only SELECT"),
        ("select 1; select 2", "one SQL statement at a time"),
        ("from read_text('/etc/passwd')", r"read_text\(\) is not allowed"),
        ("from '/etc/passwd.csv'", "no dataset, model, calibration or report named"),
        ("select * from local_table", "does not exist"),
        ("select getenv('HOME')", "getenv"),
        ("set threads = 3", "only SELECT"),
        ("copy (select 1) to 'x.csv'", "only SELECT"),
        ('from "p/wrds"', "Did you mean"),
    ],
)
def test_sql_is_confined(opened: engine.OpenRegistry, query: str, text: str) -> None:
    local_table = pa.table({"a": [1]})
    with pytest.raises(engine.QueryError, match=text):
        opened.sql(query)
    assert local_table.num_rows == 1


def test_a_query_has_limits(opened: engine.OpenRegistry) -> None:
    with pytest.raises(engine.LimitError, match=r"stopped after 0.2 s"):
        opened.sql("select count(*) from range(1000000000000)", timeout=0.2)
    with pytest.raises(engine.LimitError, match="more memory than it is allowed"):
        opened.sql("select range as r, repeat('x', 1000) as x from range(10000000) order by hash(r)", memory="50MB")
    assert opened.sql("select 1 as one").to_pylist() == [{"one": 1}]


def test_a_query_can_be_interrupted(opened: engine.OpenRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    run_query = Session._to_arrow

    def interrupted(*given: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        run_query(*given)

    monkeypatch.setattr(Session, "_to_arrow", interrupted)
    # Processes of pytest-xdist ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            opened.sql("select count(*) from range(1000000000000)")
    finally:
        signal.signal(signal.SIGINT, before)
    monkeypatch.undo()
    assert opened.sql("select 1 as one").to_pylist() == [{"one": 1}]


def test_more_than_two_gigabytes_of_text_fit_into_a_column(opened: engine.OpenRegistry) -> None:
    assert opened.sql('select text from "p/words@1"').schema.field("text").type == pa.large_string()


def test_no_text_of_a_registry_is_interpreted_as_html(opened: engine.OpenRegistry) -> None:
    shown = opened["p/words@1"]._repr_html_()
    assert "<script>" not in shown
    assert "&lt;script&gt;three&lt;/script&gt;" in shown
    assert "\\u202e" in html_of(opened, "\u202egnp.exe")


def html_of(opened: engine.OpenRegistry, text: str) -> str:
    commit(opened._registry, "p/odd", [[Word(text=text)]])
    return opened["p/odd@1"]._repr_html_()


def test_only_the_first_rows_are_read_to_show_them(opened: engine.OpenRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(opened._registry, "p/many", [[Word(text=str(number)) for number in range(10)], [Word(text="far")]])
    read = objects_read(monkeypatch)
    assert "the first 5 rows of 11" in opened["p/many@1"]._repr_html_()
    assert len(read) == 1


def test_the_files_of_a_model(opened: engine.OpenRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    registry = opened._registry
    stored = registry.store.put_bytes(b"{}")
    files = [StoredFile(name="config.json", sha256=stored.sha256, bytes=stored.bytes)]
    commit(registry, "p/model", [[Model(base_model="b", format="full", files=files)]], kind="model")
    commit(registry, "p/report", [[Report(title="t", text="x")]], kind="report")
    folder = opened["p/model@1"].path()
    assert [(file.name, file.read_bytes()) for file in folder.iterdir() if not file.name.startswith(".")] == [
        ("config.json", b"{}")
    ]
    assert [model.base_model for model in opened["p/model@1"].records(Model)] == ["b"]
    with pytest.raises(engine.EngineError, match="p/report@1 is a report; only a model has a folder of files"):
        opened["p/report@1"].path()


def test_export_writes_what_the_command_writes(here: Path) -> None:
    run = engine.run("p.yaml", quiet=True)
    folder = run.outputs["loud"].export("out", "jsonl")
    assert sorted(file.name for file in folder.iterdir()) == [".export.json", "README.md", "demo-loud.jsonl"]


def test_importing_the_engine_imports_nothing_heavy(workdir: Path) -> None:
    code = (
        "import sys, engine; engine.__version__; before = set(sys.modules); assert 'run' in dir(engine)\n"
        "print(sorted({'pyarrow', 'duckdb', 'ray', 'rich', 'typer', 'pydantic', 'registry'} & set(sys.modules)))\n"
        "engine.open, engine.run, engine.Dataset, engine.RunError\n"
        "print(sorted({'pyarrow', 'numpy', 'ray', 'typer', 'pandas', 'torch', 'aiohttp'} & set(sys.modules)))\n"
        "try: engine.nothing\nexcept AttributeError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "[]", "module 'engine' has no attribute 'nothing'"]


def test_every_name_of_the_package_can_be_imported() -> None:
    assert all(getattr(engine, name) is not None for name in engine.__all__)
    assert engine.__all__ == sorted(engine.__all__)
