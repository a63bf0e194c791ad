"""Numbers with their nouns."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from registry.counted import counted

ROOT = Path(__file__).parents[2]

NOUNS = [
    "answer",
    "attempt",
    "byte",
    "call",
    "character",
    "column",
    "digit",
    "edge",
    "entry",
    "entries",
    "file",
    "line",
    "manifest",
    "model",
    "object",
    "option",
    "partition",
    "problem",
    "prompt",
    "question",
    "reject",
    "request",
    "row",
    "sample",
    "second",
    "step",
    "text",
    "token",
    "value",
    "version",
]

PLURAL = re.compile(
    rf" (?:more |new |other |\w+ed )?(?:{'|'.join(noun if noun.endswith('ies') else f'{noun}s' for noun in NOUNS)})\b"
)
"""What must not follow a number that may be 1."""

NEVER_ONE = {
    "images.py: size bytes",
    "split.py: largest related rows",
    "split.py: total rows",
    "variants.py: count steps",
    "app.py: count problems",
    "bounds.py: longest tokens",
    "card.py: len(values) values",
    "cp_predict.py: len(calibration) rows",
    "files_of_record.py: len(version_ids) versions",
    "findings.py: self.count - 1 more rows",
    "readers.py: len(digits) digits",
    "rewrites.py: len(rewrite) characters",
    "run_view.py: failed steps",
    "small_files.py: len(ids) files",
    "trainable_rows.py: limit.positions tokens",
    "trainable_rows.py: total prompts",
    "weights.py: rows.num_rows models",
    "yaml_source.py: len(raw) bytes",
}
"""Counts that are never 1 where the text is made."""


def plurals(tree: ast.AST) -> Iterator[str]:
    """The counts in a module's f-strings that are followed by a plural. Constants are not 1."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            for value, text in pairwise(node.values):
                if isinstance(value, ast.FormattedValue) and isinstance(text, ast.Constant):
                    found, count = PLURAL.match(str(text.value)), ast.unparse(value.value)
                    if found and not count.isupper() and not count.endswith(".name"):
                        yield f"{count}{found[0]}"


@pytest.mark.parametrize(
    ("things", "nouns", "text"),
    [
        (0, ["row"], "0 rows"),
        (1, ["row"], "1 row"),
        (2000, ["row"], "2,000 rows"),
        ([1], ["entry", "entries"], "1 entry"),
        ({1, 2}, ["entry", "entries"], "2 entries"),
        (1.0, ["GPU"], "1 GPU"),
        (0.5, ["GPU"], "0.5 GPUs"),
    ],
)
def test_one_is_singular(things: int | list[int], nouns: list[str], text: str) -> None:
    assert counted(things, *nouns) == text


@pytest.mark.parametrize("package", ["engine", "operators", "registry"])
def test_no_text_puts_a_plural_after_a_number_that_may_be_one(package: str) -> None:
    found = {f"{file.name}: {each}" for file in (ROOT / package).rglob("*.py") for each in plurals(ast.parse(file.read_text()))}
    assert found - NEVER_ONE == set()
