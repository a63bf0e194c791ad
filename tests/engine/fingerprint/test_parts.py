"""What was found in a source file is remembered, and cannot give another fingerprint than the file itself."""

from __future__ import annotations

import ast
import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import CodeType

import pytest

from engine import user_cache
from engine.fingerprint import parts, syntax
from engine.fingerprint.parts import Parts
from engine.fingerprint.reachable_code import fingerprint
from engine.fingerprint.syntax import Part
from engine.packages.catalogue import catalogue
from engine.user_cache import Entries

SOURCE = '''\
import os
from . import sibling

pytestmark = pytest.mark.proof


def twice(f):
    return f


@twice
@operator(outputs="rows")
def solve(text: "Word", /, *, rate: float = 0.5) -> str:
    """Docstring."""
    from .helpers import parse as p  # comment
    return p(text).strip(os.sep)


class Shape:
    """A shape."""

    sides = 4

    def area(self) -> int:
        return self.sides

    def checks(self) -> list[str]:
        return []


double, triple = lambda x: x * 2, lambda x: x * 3
'''


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the entries, not there yet."""
    monkeypatch.setenv("ENGINE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "syntax"


@pytest.fixture
def unparsable(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes every further parsing an error."""

    def refuse(source: str) -> ast.Module:
        raise AssertionError("parsed")

    def from_now_on() -> None:
        monkeypatch.setattr(syntax, "parsed", refuse)
        monkeypatch.setattr(parts, "parsed", refuse)
        syntax._functions.cache_clear()
        syntax._lambdas.cache_clear()

    return from_now_on


def codes(source: str) -> list[CodeType]:
    """The code objects of the functions and lambdas at the left margin."""
    return [
        each
        for each in compile(source, "shapes.py", "exec").co_consts
        if isinstance(each, CodeType) and each.co_name != "Shape"
    ]


def everything(source: str = SOURCE, file: str | None = "/shapes.py") -> list[object]:
    """All parts of a source, as plain values; they are saved."""
    found = Parts(source, file)
    every = [found.function(code) for code in codes(source)]
    every += [found.class_("Shape", frozenset()), found.class_("Shape", frozenset({"checks"})), found.module()]
    found.save()
    return [plain(each) for each in every]


def plain(part: Part | None) -> object:
    assert part
    return json.loads(json.dumps(part))


def test_parts_that_were_remembered_are_the_same_and_nothing_is_parsed_for_them(
    cache: Path, unparsable: Callable[[], None]
) -> None:
    before = everything(file=None)
    assert not cache.exists()
    assert everything() == before
    assert len(list(cache.iterdir())) == 1
    assert cache.stat().st_mode & 0o777 == 0o700
    unparsable()
    assert everything() == before


@pytest.mark.proof
def test_every_fingerprint_is_the_same_with_and_without_a_cache(tmp_path: Path) -> None:
    """In new processes, for all operators of this package. The first process that may write fills the folder."""
    code = (
        "from engine.packages.catalogue import catalogue\nfrom engine.fingerprint.code import code_of\n"
        "from registry.storage.checked_json import canonical_json\n"
        "print(canonical_json({name: [code_of(name).code, code_of(name).document()] for name in catalogue().operators}))"
    )
    (tmp_path / "no-folder").touch()
    texts = [
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "ENGINE_CACHE": str(folder)},
        ).stdout
        for folder in (tmp_path / "no-folder", tmp_path / "cache", tmp_path / "cache")
    ]
    assert texts[0] == texts[1] == texts[2]
    assert len(list((tmp_path / "cache" / "syntax").iterdir())) > 20


def test_an_edited_source_is_parsed_again_and_replaces_its_entry(cache: Path) -> None:
    everything()
    edited = SOURCE.replace("x * 3", "x * 4")
    assert everything(edited) == everything(edited, None) != everything(file=None)
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_entry_is_the_same_as_none(cache: Path, seed: int) -> None:
    right = everything()
    [entry] = cache.iterdir()
    draw, damaged = random.Random(seed), bytearray(entry.read_bytes())
    place = draw.randrange(len(damaged))
    if seed % 2:
        damaged[place] ^= 1 << draw.randrange(8)
    else:
        del damaged[place:]
    entry.write_bytes(damaged)
    assert everything() == right
    assert everything() == right


def test_an_entry_of_another_source_or_version_is_not_used(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything("double, triple = 1, 2\nclass Shape:\n    pass\n", "/other.py")
    [other] = cache.iterdir()
    other.rename(cache / parts._name("/shapes.py"))
    right = everything(file=None)
    assert everything() == right
    # Python and the code that computes the parts count, too.
    before = [each.read_bytes() for each in cache.iterdir()]
    monkeypatch.setattr(parts, "_computed_by", lambda: b"another version")
    assert parts._load("/shapes.py", SOURCE) == {}
    assert everything() == right
    assert [each.read_bytes() for each in cache.iterdir()] != before


@pytest.mark.parametrize("trouble", ["a file", "a link", "writable by others", "a file above", "no home"])
def test_a_folder_that_is_not_the_users_alone_is_not_used(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    cache.parent.mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    if trouble == "a file":
        cache.touch()
    elif trouble == "a link":
        cache.symlink_to(elsewhere)
    elif trouble == "writable by others":
        cache.mkdir()
        cache.chmod(0o777)
    elif trouble == "a file above":
        cache.parent.rmdir()
        cache.parent.touch()
    else:

        def no_home() -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(user_cache, "cache_folder", no_home)
    assert everything() == everything() == everything(file=None)
    assert list(elsewhere.iterdir()) == []
    assert not cache.is_dir() or list(cache.iterdir()) == []


def test_entries_that_others_could_have_written_are_not_used(cache: Path, unparsable: Callable[[], None]) -> None:
    everything()
    [entry] = cache.iterdir()
    entry.chmod(0o666)
    assert parts._load("/shapes.py", SOURCE) == {}
    entry.chmod(0o600)
    entry.rename(cache / "away")
    entry.symlink_to(cache / "away")
    assert parts._load("/shapes.py", SOURCE) == {}


def test_a_full_disk_costs_nothing_but_the_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    assert everything() == everything(file=None)
    assert list(cache.iterdir()) == [], "the temporary file is removed"


def test_several_writers_at_once_leave_whole_entries(cache: Path) -> None:
    right = everything(file=None)
    wrong: list[object] = []

    def write() -> None:
        for _ in range(20):
            if (found := everything()) != right:
                wrong.append(found)
            known = Parts(SOURCE, "/shapes.py")
            known._new = True  # writes again what it read
            known.save()

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert [each.name for each in cache.iterdir()] == [parts._name("/shapes.py")]
    assert parts._load("/shapes.py", SOURCE)


def test_the_number_of_entries_is_bounded(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "ENTRIES", Entries("syntax", most=10))
    for number in range(40):
        found = Parts("x = 1\n", f"/{number}.py")
        found.module()
        found.save()
        assert len(list(cache.iterdir())) <= 10
    assert (cache / parts._name("/39.py")).exists()


def test_the_source_of_a_function_is_what_unparse_says() -> None:
    """Decorators are kept apart, so that declarations can be left out; with all of them it is the whole function."""
    count = 0
    for file in (Path(__file__).parents[3] / "operators").rglob("*.py"):
        for node in ast.walk(syntax.parsed(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert syntax.part(node).source(lambda _: False) == ast.unparse(node)
                count += bool(node.decorator_list)
    assert count > 20


def test_a_saved_operator_is_found_without_parsing(cache: Path, unparsable: Callable[[], None]) -> None:
    dedup = catalogue().operators["dedup"]
    parts.parts_of.cache_clear()
    first = fingerprint(dedup, "dedup", ("operators",))
    parts.parts_of.cache_clear()
    unparsable()
    again = fingerprint(dedup, "dedup", ("operators",))
    assert (again.code, again.packages, again.required) == (first.code, first.packages, first.required)
