"""`engine lineage` and `engine impact`: from a row to everything related to it, and its takedown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from engine.cli.app import app
from engine.errors import PipelineError
from registry import Registry
from tests.engine.run_pipelines import ask, run_text, texts, words

TEXT = """
name: demo
exclude: gone.jsonl
datasets: {words: {type: Word, path: words.jsonl}}
steps:
  cut: {op: by_length, in: words, with: {at: 1}}
  once: {op: distinct, in: cut.long}
"""
NEXT = "{name: next, steps: {loud: {op: shout, in: 'registry:demo/once@1'}, lump: {op: joined, in: loud}}}"


@pytest.fixture
def family(registry: Registry, in_process: None) -> Registry:
    """Two pipelines, the second of which continues from the first."""
    words("ab", "ac")
    Path("gone.jsonl").touch()
    assert run_text(TEXT, registry).state == "succeeded"
    assert run_text(NEXT, registry).state == "succeeded"
    return registry


def engine(*arguments: str) -> Result:
    """A command in this process."""
    return CliRunner().invoke(app, ["--registry", ".engine", *arguments], catch_exceptions=False)


def test_rows_are_traced_across_pipelines_and_taken_down(family: Registry) -> None:
    up = engine("lineage", "next/loud", "--row", "2").stdout.splitlines()
    assert [line.lstrip("└─ ") for line in up] == [
        "made from:",
        'next/loud@1 row 2  {"text": "C!"}',
        'demo/once@1 row 2  {"text": "c"}',
        'demo/cut.long@1 row 3  {"text": "c"}',
        'demo/words@1 row 1  {"text": "ac"}',
    ]
    down = engine("lineage", "demo/words", "--row", "0", "--down").stdout
    assert "next/lump@1: rows unknown" in down
    assert down.count("next/lump@1") == 2  # below both rows, expanded once
    assert "(see above)" in down
    document = json.loads(engine("lineage", "next/loud", "--row", "2", "--json").stdout)["up"]
    assert [(row["name"], row["row"], row["record"]) for row in document["rows"]][-1] == ("demo/words", 1, {"text": "ac"})
    assert len(document["edges"]) == 3
    versions = engine("lineage", "demo/words", "--down").stdout.split()
    assert "next/lump@1" in versions

    shown = engine("impact", "demo/words", "--where", "text = 'ab'", "--takedown", "gone.jsonl")
    assert [line.split()[:4] for line in shown.stdout.splitlines()[3:]] == [
        ["demo/words@1", "dataset", "words", "1"],
        ["demo/cut.long@1", "dataset", "cut", "2"],
        ["demo/once@1", "dataset", "once", "2"],
        ["next/loud@1", "dataset", "loud", "2"],
        ["next/lump@1", "dataset", "lump", "unknown"],
    ]
    assert "exclude: gone.jsonl" in shown.stderr
    assert (
        "0 rows added, 1 already listed"
        in engine("impact", "demo/words", "--where", "row = 0", "--takedown", "gone.jsonl").stderr
    )
    affected = json.loads(engine("impact", "demo/words", "--where", "row = 0", "--json").stdout)["affected"]
    assert affected[1]["rows"] == [0, 1]

    assert "matches: false" in engine("impact", "demo/words", "--where", "false").stdout
    with pytest.raises(PipelineError, match="demo/once@1 has no row 99"):
        engine("lineage", "demo/once", "--row", "99")

    # Row 0 of `once` came from it, though row 2 of `cut.long` has the same text: it is there again, from the other word.
    assert run_text(TEXT, family).state == "succeeded"
    assert texts(family, "demo/words") == ["ac"]
    assert texts(family, "demo/once") == ["a", "c"]
    assert ask(family, "select parent_row from row_lineage where child = 'demo/once' and child_version = 2 order by 1") == [
        (0,),
        (1,),
    ]
