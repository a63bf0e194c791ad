"""A step runs again when what its operator does changed, and only then."""

from __future__ import annotations

import importlib
import linecache
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import operators
from engine.fingerprint.code import code_of
from engine.fingerprint.project_files import LARGE
from engine.fingerprint.reachable_code import UnstableCodeError, fingerprint
from engine.packages.catalogue import catalogue

OPS = '''\
"""Operators of a scratch package."""

from __future__ import annotations

import functools
import re
from collections.abc import AsyncIterator, Iterator
from typing import Annotated

import numpy as np

import scratch.other as other
from engine.operator import ChatModel, Context, Counters, Metric, Params, Record, operator
from pydantic import Field
from scratch.helpers import Base, shout, wrapped


class Word(Record):
    """A word."""

    text: str


class Speaker(Base):
    """Says things."""

    def say(self, text: str) -> str:
        # A comment.
        return self.prefix() + text


def local_helper(text: str, times: int = 2) -> str:
    """Repeats."""
    return text * times


def behind_lambda(text: str) -> str:
    return text


def bound(text: str, times: int) -> str:
    rate: RATE = float(times)
    return text * int(rate)


def unrelated(text: str) -> str:
    return text.title()


def make(suffix: str):
    mark = suffix + "!"

    def add(text: str) -> str:
        return text + mark

    return add


def most_calls(limit: int) -> int:
    return limit + 1


class Limits(Params):
    """Limits."""

    limit: Annotated[int, Field(ge=0)] = 3

    def calls(self):
        return {"teacher": most_calls(self.limit)}

    def roles(self):
        return {"teacher"}

    def problems(self, inputs):
        yield from []

    def notes(self):
        return ["a note"]

    def half(self):
        return self.limit // 2


@operator
async def scratch_op(word: Word, ctx: Context, teacher: ChatModel, params: Limits) -> AsyncIterator[Word]:
    """Does something to a word."""
    text = local_helper(word.text)
    text = TABLE["a"](text) + TABLE["b"](text) + TWO[1](text) + BOUND(text) + traced(text) + Made().value() + kinds(text)
    from scratch import late2

    text = late2.go(text)
    text = shout(text) + other.deep.inner(text) + Speaker().say(text) + ADD(text) + wrapped(text)
    if PATTERN.search(text) and text in WORDS:
        text = str(np.sum([len(text)]))
    from scratch.late import finish

    yield Word(text=PROMPT.format(finish(text)[:params.limit + params.half()]))


def rounded(value: float) -> float:
    return round(value, 3)


@scratch_op.finish
def summed(counts: Counters) -> Iterator[Metric]:
    yield Metric(metric="n", slice="", value=rounded(len(counts)))


def trace(function):
    @functools.wraps(function)
    def inner(*arguments):
        return function(*arguments) + "t"

    return inner


@trace
def traced(text: str) -> str:
    return text + "1"


def make_class(number):
    class Inner:
        def value(self):
            return str(number)

    return Inner


@functools.singledispatch
def kinds(value):
    return ""


@kinds.register
def _(value: str):
    return "s" + value


Made = make_class(111)
TABLE = {
    "a": lambda text: local_helper(text) if text in ("u", "v") else "", "b": lambda text: behind_lambda(text),
}
TWO = [make("x"), make("y")]
BOUND = functools.partial(bound, times=5)
RATE = Annotated[float, Field(ge=0)]
ADD = make("a")
PATTERN = re.compile("x+")
WORDS = {"one": 1, "two": 2}
PROMPT = "Say {}"
'''

FILES = {
    "__init__.py": "",
    "ops.py": OPS,
    "helpers.py": """\
import functools
from dataclasses import dataclass


@dataclass(frozen=True)
class Pair:
    left: str
    right: str = "r"

    def joined(self):
        return self.left + self.right


def marking(mark):
    return lambda self: mark


Pair.mark = marking("m")


class Base:
    def prefix(self):
        return "b:"


def shout(text):
    return quietly(Pair(text).joined()).upper()


def quietly(text):
    return text.strip()


@functools.cache
def wrapped(text):
    return text + "w"
""",
    "other.py": "import scratch.deep as deep\n\nUNUSED = 1\n",
    "deep.py": "FACTOR = 3\n\n\ndef inner(text):\n    return text * FACTOR\n\n\ndef not_used(text):\n    return text\n",
    "late2.py": "def go(text):\n    return further(text)\n\n\ndef further(text):\n    return text + '2'\n",
    "late.py": "def finish(text):\n    return text.lower()\n",
}

MUST_RERUN = {
    "its body": ("ops.py", "len(text)", "len(text) + 1"),
    "a default of the operator": ("ops.py", "Field(ge=0)] = 3", "Field(ge=0)] = 4"),
    "a helper in the same module": ("ops.py", "return text * times", "return text * times * 2"),
    "a helper's default": ("ops.py", "times: int = 2", "times: int = 3"),
    "a helper in another module": ("helpers.py", ".joined()).upper()", ".joined()).lower()"),
    "a helper of a helper": ("helpers.py", "return text.strip()", "return text.rstrip()"),
    "a helper behind a decorator": ("helpers.py", 'text + "w"', 'text + "v"'),
    "a helper reached through modules": ("deep.py", "text * FACTOR", "text + str(FACTOR)"),
    "a constant of another module": ("deep.py", "FACTOR = 3", "FACTOR = 4"),
    "a helper imported inside the function": ("late.py", "text.lower()", "text.upper()"),
    "the first of two lambdas": ("ops.py", '("u", "v")', '("u", "w")'),
    "a helper of a lambda": ("ops.py", "text: str) -> str:\n    return text\n", "text: str) -> str:\n    return text[:1]\n"),
    "the first of two closures": ("ops.py", 'make("x")', 'make("z")'),
    "the order of two closures": ("ops.py", 'make("x"), make("y")', 'make("y"), make("x")'),
    "a partial's argument": ("ops.py", "times=5", "times=6"),
    "a type alias with a constraint": ("ops.py", "Annotated[float, Field(ge=0)]", "Annotated[float, Field(ge=1)]"),
    "a decorator's wrapper": ("ops.py", 'function(*arguments) + "t"', 'function(*arguments) + "T"'),
    "what a decorator wraps": ("ops.py", 'return text + "1"', 'return text + "2"'),
    "a class's closure": ("ops.py", "make_class(111)", "make_class(112)"),
    "an implementation of a single dispatch": ("ops.py", 'return "s" + value', 'return "S" + value'),
    "a module imported inside the function": ("late2.py", "return further(text)", "return further(text) * 2"),
    "a helper in a module imported inside the function": ("late2.py", "text + '2'", "text + '3'"),
    "a module constant": ("ops.py", '"two": 2', '"two": 3'),
    "a compiled pattern": ("ops.py", '"x+"', '"y+"'),
    "a prompt template": ("ops.py", '"Say {}"', '"Tell {}"'),
    "a closure value": ("ops.py", 'make("a")', 'make("b")'),
    "the code of a closure": ("ops.py", "return text + mark", "return mark + text"),
    "a dataclass's default": ("helpers.py", 'right: str = "r"', 'right: str = "q"'),
    "a dataclass's method": ("helpers.py", "self.left + self.right", "self.right + self.left"),
    "a method that is put into a class": ("helpers.py", 'marking("m")', 'marking("n")'),
    "its finish function": ("ops.py", "rounded(len(counts))", "rounded(len(counts) + 1)"),
    "a helper of its finish function": ("ops.py", "round(value, 3)", "round(value, 4)"),
    "a method of its parameters that makes rows": ("ops.py", "self.limit // 2", "self.limit // 3"),
    "a constraint of its parameters": ("ops.py", "limit: Annotated[int, Field(ge=0)]", "limit: Annotated[int, Field(ge=1)]"),
    "a base class": ("helpers.py", 'return "b:"', 'return "c:"'),
    "a method of a class": ("ops.py", "self.prefix() + text", "text + self.prefix()"),
    "a record's field": (
        "ops.py",
        "    text: str\n\n\nclass Speaker",
        "    text: str\n    more: str | None = None\n\n\nclass Speaker",
    ),
}

MUST_NOT_RERUN = {
    "a comment": ("ops.py", "# A comment.", "# Another one."),
    "the operator's docstring": ("ops.py", "Does something to a word.", "Does a thing."),
    "a helper's docstring": ("ops.py", '"""Repeats."""', '"""Says again."""'),
    "a class's docstring": ("ops.py", '"""Says things."""', ""),
    "the module's docstring": ("ops.py", "Operators of a scratch package.", "Changed."),
    "formatting": ("ops.py", "return text * times", "return (text\n        *   times)"),
    "quotes": ("ops.py", '"Say {}"', "'Say {}'"),
    "an unrelated function": ("ops.py", "return text.title()", "return text.swapcase()"),
    "an unrelated function of a reached module": (
        "deep.py",
        "def not_used(text):\n    return text",
        "def not_used(text):\n    return 0",
    ),
    "an unrelated constant of a reached module": ("other.py", "UNUSED = 1", "UNUSED = 2"),
    "a new function": ("helpers.py", "import functools\n", "import functools\n\n\ndef brand_new():\n    return 1\n"),
    "an attribute's docstring": (
        "ops.py",
        "    text: str\n\n\nclass Speaker",
        '    text: str\n    """Letters."""\n\n\nclass Speaker',
    ),
    "how many calls it makes at most": ("ops.py", "most_calls(self.limit)}", "most_calls(self.limit) + 1}"),
    "a helper of that": ("ops.py", "return limit + 1", "return limit + 2"),
    "the roles that it needs": ("ops.py", 'return {"teacher"}', 'return {"teacher"} if self.limit else {"teacher"}'),
    "what it says of parameters": ("ops.py", "yield from []", "yield from ['no']"),
    "its notes": ("ops.py", '["a note"]', '["another note"]'),
    "a new method that the engine asks": (
        "ops.py",
        "    def notes(self):",
        "    def prompt_bytes(self):\n        return 3\n\n    def notes(self):",
    ),
    "blank lines": ("ops.py", "\n\n\nclass Word", "\n\n\n\n\nclass Word"),
}


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package `scratch` that can be edited."""
    package = tmp_path / "scratch"
    package.mkdir()
    for name, text in FILES.items():
        (package / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    # If a file is edited within a second and keeps its length, Python uses the module that it has compiled before.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield package
    forget()


def forget() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "scratch"]:
        del sys.modules[name]
    importlib.invalidate_caches()
    linecache.clearcache()


def document() -> dict[str, Any]:
    """The fingerprint after a fresh import."""
    forget()
    return fingerprint(importlib.import_module("scratch.ops").scratch_op, "scratch_op").document()


def edit(package: Path, file: str, old: str, new: str) -> None:
    text = (package / file).read_text()
    assert old in text
    (package / file).write_text(text.replace(old, new))


@pytest.mark.parametrize("change", MUST_RERUN.values(), ids=MUST_RERUN)
def test_a_change_that_matters_changes_the_fingerprint(scratch: Path, change: tuple[str, str, str]) -> None:
    before = document()
    edit(scratch, *change)
    assert document() != before


@pytest.mark.parametrize("change", MUST_NOT_RERUN.values(), ids=MUST_NOT_RERUN)
def test_a_change_that_does_not_matter_leaves_the_fingerprint(scratch: Path, change: tuple[str, str, str]) -> None:
    before = document()
    edit(scratch, *change)
    assert document() == before


@pytest.mark.parametrize("called", ["len(params.calls())", "len([params][0].calls())", "len(copy.copy(params).calls())"])
def test_a_method_of_params_counts_if_the_operator_calls_it(scratch: Path, called: str) -> None:
    edit(scratch, "ops.py", "params.half()", called)
    before = document()
    edit(scratch, "ops.py", "most_calls(self.limit)}", "most_calls(self.limit), 'judge': 1}")
    assert document() != before


def test_packages_count_by_version_and_the_standard_library_not_at_all(scratch: Path) -> None:
    found = document()["packages"]
    assert "numpy" in found
    assert "re" not in found
    assert "engine" in found


@pytest.mark.parametrize("folder", ["user/lib/python3.11/site-packages", "usr/lib/python3/dist-packages"])
def test_packages_of_the_user_and_the_system_count_by_version(
    scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    """Not only those of the environment: a notebook often sees several."""
    elsewhere = tmp_path / folder
    elsewhere.mkdir(parents=True)
    (elsewhere / "far_away.py").write_text("STRANGE = object()\ndef far(text): return str(STRANGE) + text\n")
    monkeypatch.syspath_prepend(str(elsewhere))
    edit(scratch, "ops.py", "import numpy as np", "import numpy as np\nfrom far_away import far")
    edit(scratch, "ops.py", "    yield Word(text=", "    far('x')\n    yield Word(text=")
    assert "far_away" in document()["packages"]
    sys.modules.pop("far_away")


@pytest.mark.parametrize("caught", ["ImportError", "(ValueError, ModuleNotFoundError)", "Exception", ""])
def test_a_package_that_code_does_without_is_not_required(scratch: Path, caught: str) -> None:
    line = "    yield Word(text="
    optional = f"    try:\n        import fast_words\n    except {caught}:\n        fast_words = None\n{line}".replace(
        " :", ":"
    )
    edit(scratch, "ops.py", line, f"    import slow_words\n{optional}")
    forget()
    found = fingerprint(importlib.import_module("scratch.ops").scratch_op, "scratch_op")
    assert {"fast_words", "slow_words"} <= found.packages.keys(), "a step runs again when one is installed"
    assert {"fast_words", "slow_words"} & found.required == {"slow_words"}


def test_a_value_without_a_canonical_form_is_an_error_that_names_it(scratch: Path) -> None:
    edit(scratch, "ops.py", 'WORDS = {"one": 1, "two": 2}', "WORDS = object()")
    with pytest.raises(UnstableCodeError, match=r"scratch_op.*scratch\.ops:WORDS.*plain constant"):
        document()


def test_the_fingerprint_is_the_same_in_every_process(scratch: Path) -> None:
    import subprocess

    code = (
        "import importlib, json; from engine.fingerprint.reachable_code import fingerprint\n"
        "print(json.dumps(fingerprint(importlib.import_module('scratch.ops').scratch_op, 'scratch_op').document()))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONPATH": f"{scratch.parent}:{Path.cwd()}", "PYTHONHASHSEED": seed, "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


PLACES = """
import os
from pathlib import Path

HERE = Path(__file__).parent
REAL = Path(__file__).resolve().parent
NAMED = {"prompt": HERE / "prompt.txt", "words": os.path.join(os.path.dirname(__file__), "words", "all.txt")}
CODE = HERE / "deep.py"


def read():
    return [HERE, REAL, NAMED, CODE, Path(__file__).name]
"""


def with_places(package: Path) -> None:
    """Let the operator reach constants with paths."""
    (package / "places.py").write_text(PLACES)
    edit(package, "ops.py", "    yield Word(text=", "    from scratch.places import read\n    read()\n    yield Word(text=")


def test_a_project_that_is_moved_keeps_its_fingerprints(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_places(scratch)
    (scratch / "prompt.txt").write_text("Say it.")
    before = document()
    elsewhere = scratch.parent / "a link" / ".." / "elsewhere"
    for folder in ("a link", "elsewhere"):
        (scratch.parent / folder).mkdir()
    scratch.rename(elsewhere / "scratch")
    monkeypatch.syspath_prepend(str(elsewhere))
    assert document() == before


@pytest.mark.parametrize("file", ["prompt.txt", "words/all.txt"])
def test_a_file_of_the_project_that_a_constant_names_counts_by_its_content(scratch: Path, file: str) -> None:
    with_places(scratch)
    missing = document()
    (scratch / file).parent.mkdir(exist_ok=True)
    (scratch / file).write_text("Say it.")
    there = document()
    (scratch / file).write_text("Say IT.")
    changed = document()
    (scratch / file).write_bytes(b"x" * LARGE)
    large = document()
    assert len({str(each) for each in (missing, there, changed, large)}) == 4
    (scratch / file).unlink()
    (scratch / file).mkdir()
    assert document() == missing, "a folder"


IN_CLASSES = {
    "attribute": "class Places:\n    prompt = {'system': [str(HERE / 'prompt.txt')]}",
    "default": "class Places:\n    @staticmethod\n    def read(place=HERE / 'prompt.txt'):\n        return place",
    "dataclass": "@dataclass(slots=True)\nclass Places:\n    prompt: Path = HERE / 'prompt.txt'",
    "model": "class Places(BaseModel):\n    prompt: Path = HERE / 'prompt.txt'",
    "enum": "class Places(Enum):\n    PROMPT = HERE / 'prompt.txt'",
}


@pytest.mark.parametrize("code", IN_CLASSES.values(), ids=IN_CLASSES)
def test_so_does_a_file_that_a_class_names(scratch: Path, code: str) -> None:
    imports = (
        "from dataclasses import dataclass\nfrom enum import Enum\nfrom pathlib import Path\nfrom pydantic import BaseModel"
    )
    with_places(scratch)
    (scratch / "places.py").write_text(f"{imports}\nHERE = Path(__file__).parent\n{code}\n\n\ndef read():\n    return Places\n")
    (scratch / "prompt.txt").write_text("Say it.")
    before = document()
    (scratch / "prompt.txt").write_text("Say IT.")
    assert document() != before


def test_a_path_whose_name_is_not_unicode_has_a_fingerprint(scratch: Path) -> None:
    with_places(scratch)
    edit(scratch, "places.py", "all.txt", "\\ud800.txt")
    assert document() == document()


def test_a_python_file_that_a_constant_names_counts_by_its_code_where_it_is_reached(scratch: Path) -> None:
    with_places(scratch)
    before = document()
    edit(scratch, "deep.py", "FACTOR = 3", "FACTOR = 3  # a comment")
    assert document() == before


def test_a_class_attribute_may_contain_itself(scratch: Path) -> None:
    before = document()
    edit(scratch, "helpers.py", "class Base:\n", "class Base:\n    seen = []\n    seen.append(seen)\n\n")
    assert document() != before


def test_no_fingerprint_of_a_shipped_operator_says_where_it_is_installed() -> None:
    here = str(Path(operators.__file__).parents[1])
    found = {name: code_of(name) for name in catalogue().operators}
    assert [name for name, each in found.items() if any(here in text for text in each.code.values())] == []
    assert [file.name for file in found["train_sft"].files] == ["config_fields.json"]
