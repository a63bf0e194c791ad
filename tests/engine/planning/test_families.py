"""Groups of rows that come from the same source row, by row lineage."""

from __future__ import annotations

import json

import pytest

from engine.planning.inputs import version_of
from engine.planning.row_groups import row_groups
from registry import Registry
from tests.engine.run_pipelines import ask, outcomes, run_text, words

pytestmark = pytest.mark.usefixtures("in_process")


def pipeline(**steps: object) -> str:
    return json.dumps({"name": "demo", "datasets": {"words": {"type": "Word", "path": "words.jsonl"}}, "steps": steps})


SPLIT = {"op": "by_length", "in": "words"}
SHOUT = {"op": "shout", "in": ["split.long", "split.short"]}


def of(registry: Registry, *targets: str) -> list[tuple[str, int]]:
    """(text, family) of the rows of some versions."""
    inputs, texts = [], []
    for target in targets:
        name, _, number = target.partition("@")
        manifest = registry.manifest(name, int(number))
        inputs.append(version_of(manifest))
        texts += [text for (text,) in ask(registry, f'select text from "{target}" order by row')]
    return list(zip(texts, row_groups(inputs, registry), strict=True))


def test_rows_of_the_same_source_row_are_one_group_whatever_their_path(registry: Registry) -> None:
    words("abc", "de", "skip", "fgh", "x")
    run_text(pipeline(split=SPLIT, loud=SHOUT), registry)
    assert of(registry, "demo/loud@1") == [
        *(("A!", 0), ("B!", 0), ("C!", 0)),
        *(("F!", 1), ("G!", 1), ("H!", 1)),
        ("DE!", 2),
        ("X!", 3),
    ]
    # A seed together with the rows made from it, in either order.
    mixed = dict(of(registry, "demo/words@1", "demo/split.long@1"))
    assert mixed["abc"] == mixed["a"] == mixed["b"] == 0
    assert mixed["fgh"] == mixed["h"] != mixed["de"]


def test_lookup_inputs_do_not_join_groups(registry: Registry) -> None:
    words("one", "two")
    words("hint", file="hints.jsonl")
    document = json.loads(pipeline(hinted={"op": "hinted", "in": {"word": "words", "hints": "hints"}}))
    document["datasets"]["hints"] = {"type": "Word", "path": "hints.jsonl"}
    run_text(json.dumps(document), registry)
    assert ask(registry, "select count(*) from row_lineage where child = 'demo/hinted' and parent = 'demo/hints'") == [(2,)]
    assert [family for _, family in of(registry, "demo/hinted@1")] == [0, 1]


def test_an_operator_with_grouped_input_gets_the_groups_and_runs_again_if_they_change(registry: Registry) -> None:
    words("ab", "cd")
    steps = {"split": {**SPLIT, "with": {"at": 1}}, "sizes": {"op": "family_sizes", "in": "split.long"}}
    run_text(pipeline(**steps), registry)
    assert ask(registry, 'select text from "demo/sizes"') == [("ab",), ("cd",)]
    assert set(outcomes(run_text(pipeline(**steps), registry)).values()) == {"hit"}

    words("a", "b", "c", "d")
    result = run_text(pipeline(sizes={"op": "family_sizes", "in": "words"}), registry)
    same = (
        "select count(distinct content_id) from versions where name || '@' || version in ('demo/split.long@1', 'demo/words@2')"
    )
    assert ask(registry, same) == [(1,)]
    assert outcomes(result) == {"sizes": "ran"}
    assert ask(registry, 'select text from "demo/sizes"') == [("a",), ("b",), ("c",), ("d",)]
