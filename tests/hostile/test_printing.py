"""Output is exact and harmless: no text of a registry moves the cursor, hides, or becomes an emoji."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from registry import Registry
from tests.hostile.test_registries import ran
from tests.registry.catalog.test_catalog import commit, draft

TEXTS = (
    "ratio :100: and :smile:",
    "[red]not red[/red] [/] [link=http://x]y[/link]",
    "\x1b[2J\x1b]0;title\x07\x1b]52;c;cHduZWQ=\x07",
    "one-eighth csi: \x9b31m",
    "right to left: \u202egnp.exe\u2066\u200f",
    "hidden: a\u200bb\ufeffc\U000e0041",
    "carriage\rreturn and \x08\x08backspace",
    "woman and woman: \U0001f469\u200d\U0001f469, \u0646\u0627\u0645\u0647\u200c\u0627\u06cc, \u0905\u0932\u094d",
)
HARMFUL = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e007f]"
)


@pytest.fixture
def root(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("registry.query.limits.limit_memory", lambda size: None)
    [first] = commit(registry, draft(registry, "p/a", TEXTS, "k1"))
    commit(registry, draft(registry, "p/b", [f"{text}!" for text in TEXTS], "k2", [first.ref], "01234567"))
    return registry.root


@pytest.mark.parametrize(
    "command",
    [
        ("head", "p/a", "-n", "9"),
        ("sql", 'select word, word as "\x1b[31m:smile:" from "p/a"'),
        ("lineage", "p/b", "--row", "0"),
        ("diff", "p/a", "p/b", "--key", "row", "-n", "9"),
        ("head", "\x1b[31m\u202e"),
        ("sql", "select \x1b[31m\u202e"),
        ("runs", "\x1b[31m\u202e"),
        ("impact", "p/a", "--where", "word = '\x1b[2J'"),
    ],
)
def test_tables_trees_and_errors_are_harmless(root: Path, command: tuple[str, ...]) -> None:
    answer = ran(root, *command)
    printed = answer.out + answer.err
    assert printed
    assert not HARMFUL.search(printed)
    if "p/a" in "".join(command) and command[0] in ("head", "sql"):
        for shown in (
            TEXTS[0],
            TEXTS[1],
            TEXTS[7],
            r"\x1b[2J\x1b]0;title\x07",
            r"\u202egnp.exe",
            r"a\u200bb\ufeffc\U000e0041",
            r"carriage\r",
        ):
            assert shown.replace(r"\r", r"\x0d") in printed


def test_json_is_harmless_and_exact(root: Path) -> None:
    for command in (("head", "p/a", "-n", "9", "--json"), ("sql", 'select word from "p/a" order by row', "--format", "json")):
        printed = ran(root, *command).out
        assert not HARMFUL.search(printed)
        assert tuple(row["word"] for row in json.loads(printed)) == TEXTS
    assert "\x1b[2J" in ran(root, "sql", 'select word from "p/a"', "--format", "csv").out  # not a terminal: as it is


def test_json_has_no_nan(root: Path) -> None:
    query = "select 'nan'::double a, '-inf'::float b, [1.5, 'inf'::double] c, {'x': 'nan'::double} d"
    for option in (("--json",), ("--format", "json")):
        [row] = json.loads(ran(root, "sql", query, *option).out, parse_constant=pytest.fail)
        assert row == {"a": None, "b": None, "c": [1.5, None], "d": {"x": None}}
