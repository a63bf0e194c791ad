"""Names of operators, record types and generators: bare and full, of several packages, broken modules, nothing in excess."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from engine.fingerprint.code import _code_of, _code_of_function
from engine.packages.catalogue import AmbiguousNameError, BrokenModuleError, Catalogue, _catalogue, catalogue, full_name
from engine.packages.definitions import _installed, definitions, packages
from registry import Registry
from tests.engine.run_pipelines import outcomes, run_text, texts

SHOUT = '''
    """Scratch operators."""
    from collections.abc import AsyncIterator
    from engine.operator import Record, operator
    from engine.operator.generators import Generator

    class Note(Record):
        text: str

    class LongNote(Note):
        more: str = ""

    @operator(outputs=Note)
    async def {name}(note: Note) -> AsyncIterator[Note]:
        """{doc}"""
        yield note.model_copy(update={{"text": {code}}})

    def rows(task, limit, seed, settings):
        yield from ({{"text": f"{{task}} {{number}}"}} for number in range(limit))

    notes = Generator("notes", rows, lambda task, settings: [], lambda: "1")
'''


def package(
    folder: Path, name: str, *, operator: str = "exclaim", code: str = "note.text.upper()", doc: str = "Shout."
) -> None:
    """An installed package `name` with an operator, two record types and a generator."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text("")
    (folder / name / "ops.py").write_text(dedent(SHOUT).format(name=operator, code=code, doc=doc))
    info = folder / f"{name}-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(f"[engine.operators]\n{name} = {name}\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages. Modules that are imported from it are removed afterwards."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)
    yield folder  # type: ignore[misc]
    for name in set(sys.modules) - before:
        if name.partition(".")[0].startswith("scratch_"):
            del sys.modules[name]


def engine(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(site), os.environ["PYTHONPATH"]])
    command = [sys.executable, "-m", "engine.cli", *arguments]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)


def test_the_source_files_show_all_that_importing_finds() -> None:
    found = Catalogue(packages())
    shown = {(each.kind, each.full_name) for each in definitions(packages())}
    assert found.load_all() == []
    imported = {(each.kind, each.full_name) for each in found._index.known()}
    assert imported - {("record type", "registry:Model"), ("record type", "registry:Report")} == shown


def test_a_name_works_bare_and_full() -> None:
    assert catalogue().operators["to_sft"] is catalogue().operators["operators:to_sft"]
    assert full_name(catalogue().operators["to_sft"]) == "operators:to_sft"
    assert catalogue().records["registry:Model"] is catalogue().records["Model"]
    assert catalogue().generators["operators:reasoning_gym"].name == "reasoning_gym"
    for name in ("nothing", "operators:nothing", "scratch_ops:to_sft", ""):
        with pytest.raises(KeyError):
            catalogue().operators[name]


def test_only_the_module_that_defines_a_name_is_imported(site: Path) -> None:
    package(site, "scratch_a")
    (site / "scratch_a" / "other.py").write_text("raise RuntimeError('must not be imported')")
    found = Catalogue(["scratch_a"])
    assert sorted(found.operators) == ["exclaim"]
    assert sorted(found.records) == ["LongNote", "Model", "Note", "Report"]
    assert "scratch_a.ops" not in sys.modules
    assert full_name(found.operators["exclaim"]) == "scratch_a:exclaim"


def test_a_bare_name_of_two_packages_is_ambiguous_and_the_full_names_work(site: Path) -> None:
    package(site, "scratch_a")
    package(site, "scratch_b", code="note.text + '!'")
    found = Catalogue(["scratch_a", "scratch_b"])
    with pytest.raises(AmbiguousNameError, match="'exclaim': write scratch_a:exclaim or scratch_b:exclaim"):
        found.operators["exclaim"]
    assert found.operators["scratch_a:exclaim"] is not found.operators["scratch_b:exclaim"]
    assert list(found.operators) == ["scratch_a:exclaim", "scratch_b:exclaim"]
    assert list(found.generators) == ["scratch_a:notes", "scratch_b:notes"]
    assert found.operators.hint("scratch_b:exclim") == "did you mean 'scratch_b:exclaim'?"


def test_a_name_defined_twice_in_a_package_is_an_error_with_both_places(site: Path) -> None:
    package(site, "scratch_a")
    (site / "scratch_a" / "more.py").write_text(dedent(SHOUT).format(name="exclaim", code="''", doc="Hush."))
    with pytest.raises(AmbiguousNameError, match=r"scratch_a:exclaim is defined in scratch_a\.more and in scratch_a\.ops"):
        Catalogue(["scratch_a"]).operators["exclaim"]


def test_a_module_that_imports_an_operator_does_not_define_it(site: Path) -> None:
    package(site, "scratch_a")
    (site / "scratch_a" / "again.py").write_text("from scratch_a.ops import Note, exclaim\n")
    found = Catalogue(["scratch_a"])
    assert found.load_all() == []
    assert full_name(found.operators["exclaim"]) == "scratch_a:exclaim"


def test_a_dynamic_definition_is_found_by_importing(site: Path) -> None:
    package(site, "scratch_a")
    dynamic = "from scratch_a.ops import Note\nfrom engine.operator import operator as op\n\n"
    dynamic += "def make():\n    async def whisper(note: Note):\n        yield note\n    return op(outputs=Note)(whisper)\n\n"
    (site / "scratch_a" / "dynamic.py").write_text(f"{dynamic}whisper = make()\n")
    found = Catalogue(["scratch_a"])
    assert "whisper" not in list(found.operators)
    assert full_name(found.operators["whisper"]) == "scratch_a:whisper"
    assert "whisper" in list(found.operators)


def test_a_broken_module_affects_only_its_own_names(site: Path) -> None:
    package(site, "scratch_a")
    package(site, "scratch_b", operator="sigh")
    broken = site / "scratch_b" / "ops.py"
    broken.write_text(f"import nowhere_at_all\n{broken.read_text()}")
    found = Catalogue(["scratch_a", "scratch_b"])
    assert found.operators["exclaim"]
    place = rf"the module 'scratch_b\.ops' cannot be imported: ModuleNotFoundError: .*nowhere_at_all.*\({broken}:1\)"
    with pytest.raises(BrokenModuleError, match=place):
        found.operators["sigh"]
    with pytest.raises(KeyError):
        found.operators["exclam"]
    assert "did you mean 'exclaim'?\n    the module 'scratch_b.ops' cannot be imported" in found.operators.hint("exclam")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import sys\nsys.exit('bye')\n", r"SystemExit: bye \(FILE:2\)"),
        ("x = 1\ndef f(:\n", r"SyntaxError: .+ \(FILE:2\)"),
    ],
)
def test_a_module_that_cannot_be_imported_is_named_with_the_line(site: Path, text: str, expected: str) -> None:
    package(site, "scratch_a")
    file = site / "scratch_a" / "broken.py"
    file.write_text(text)
    [broken] = Catalogue(["scratch_a"]).load_all()
    assert re.search(expected.replace("FILE", str(file)), str(broken))


def test_an_entry_point_that_names_no_module_is_reported() -> None:
    [broken] = Catalogue(["scratch_nowhere"]).load_all()
    assert str(broken) == "an entry point 'engine.operators' names the module 'scratch_nowhere', which does not exist"


@pytest.mark.proof
def test_commands_with_two_packages_that_define_the_same_names(site: Path, workdir: Path) -> None:
    package(site, "scratch_a")
    package(site, "scratch_b", code="note.text + '!'", doc="Cry.")
    (site / "scratch_b" / "broken.py").write_text("1 / 0\n")
    text = "{{name: p, datasets: {{n: {{type: {type}, generator: {generator}/x}}}}, steps: {{s: {{op: {op}, in: n}}}}}}\n"

    def checked(**names: str) -> str:
        Path("p.yaml").write_text(text.format(**{"type": "scratch_a:Note", "generator": "scratch_a:notes", **names}))
        done = engine(site, "check", "p.yaml")
        assert done.returncode == (2 if done.stderr else 0)
        assert "Traceback" not in done.stderr
        return done.stderr

    assert checked(op="scratch_a:exclaim") == ""
    assert checked(op="scratch_b:exclaim", type="scratch_b:LongNote", generator="scratch_b:notes") == ""
    assert "to_sft needs MathSolution" in checked(op="to_sft"), "a bare name that is unique works as before"
    assert "2 packages define the operator 'exclaim': write scratch_a:exclaim or scratch_b:exclaim" in checked(op="exclaim")
    assert "2 packages define the record type 'Note'" in checked(op="scratch_a:exclaim", type="Note")
    assert "2 packages define the generator 'notes'" in checked(op="scratch_a:exclaim", generator="notes")
    listed = engine(site, "ops")
    assert "the module 'scratch_b.broken' cannot be imported: ZeroDivisionError" in listed.stderr
    rows = [line.split()[:2] for line in listed.stdout.splitlines()]
    assert ["scratch_a:exclaim", "scratch_a"] in rows
    assert ["to_sft", "operators"] in rows
    assert "Cry." in engine(site, "ops", "scratch_b:exclaim").stdout
    assert "write scratch_a:exclaim or scratch_b:exclaim" in engine(site, "ops", "exclaim").stderr
    step: dict[str, Any] = json.loads(engine(site, "schema").stdout)["$defs"]["StepSpec"]
    assert {"to_sft", "operators:to_sft", "scratch_a:exclaim", "scratch_b:exclaim"} <= set(step["properties"]["op"]["enum"])
    assert "exclaim" not in step["properties"]["op"]["enum"]


def test_an_unrelated_package_changes_no_step_key(site: Path, workdir: Path) -> None:
    package(site, "scratch_a")
    pipeline = (
        "{name: p, datasets: {n: {type: 'scratch_a:Note', generator: 'scratch_a:notes/x'}}, steps: {s: {op: '%s', in: n}}}"
    )
    code = (
        "from pathlib import Path; from engine.pipeline.check import check; from engine.planning.keys import step_document\n"
        "from engine.sources.ingest import identity; import json; p = check(Path('p.yaml')); source = p.sources['n']\n"
        "print(json.dumps([step_document(p.steps['s'], {}, 0, {}, {}),"
        " identity(source.spec, source.record, Path(), 0)], sort_keys=True))"
    )

    def keys(op: str) -> str:
        Path("p.yaml").write_text(pipeline % op)
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), os.environ["PYTHONPATH"]])}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    alone = keys("exclaim")
    assert keys("scratch_a:exclaim") == alone
    package(site, "scratch_b", code="note.text + '!'")
    assert keys("scratch_a:exclaim") == alone


def test_a_run_uses_the_operator_that_the_full_name_means(site: Path, registry: Registry, in_process: None) -> None:
    caches = (_installed, _catalogue, _code_of, _code_of_function)
    package(site, "scratch_a")
    package(site, "scratch_b", code="note.text + '!'")
    for cached in caches:
        cached.cache_clear()
    text = "{name: p, datasets: {n: {type: 'scratch_a:Note', generator: 'scratch_a:notes/x', limit: 2}}, steps: {s: {op: '%s', in: n}}}"
    try:
        assert run_text(text % "scratch_a:exclaim", registry).state == "succeeded"
        assert texts(registry, "p/s@1") == ["X 0", "X 1"]
        assert outcomes(run_text(text % "scratch_a:exclaim", registry)) == {"s": "hit"}
        assert outcomes(run_text(text % "scratch_b:exclaim", registry)) == {"s": "ran"}
        assert texts(registry, "p/s@2") == ["x 0!", "x 1!"]
    finally:
        for cached in caches:
            cached.cache_clear()
