"""The card of an export says what the data is, where it came from and how it was made, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from engine.export import card
from engine.export.versions import export
from registry import Manifest, Metric, Registry, VersionRef
from tests.chat_server import ChatServer
from tests.engine.export.test_export import ROWS, Row, commit
from tests.engine.run_pipelines import run_text, words


def text_of(registry: Registry, manifest: Manifest) -> str:
    return card.card(registry, manifest, card.Data(Row.arrow_schema(), "train/*.arrow", 1, "hf"))


def test_the_card_describes_the_data_its_sources_and_its_steps(
    registry: Registry, chat_server: ChatServer, in_process: None, tmp_path: Path
) -> None:
    words("a", "bb")
    result = run_text(
        f"""
        name: demo
        seed: 7
        models:
          teacher: {{provider: openai, model: some-model, base_url: "{chat_server.base_url}", temperature: 0.25, api_key_env: BENCH_KEY}}
        datasets: {{words: {{type: Word, path: words.jsonl}}}}
        steps: {{asked: {{op: ask, in: words, with: {{prompt: "Say | ``` <b>"}}}}}}
        """,
        registry,
    )
    assert result.state == "succeeded", result.error
    done = export(registry, "demo/asked", "parquet", tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    for line in (
        "# demo/asked@1",
        "4 rows of type `Word`, made by step `asked` (`ask`) of pipeline `demo`",
        f"content id: `{done.manifest.content_id}`",
        "| text | `str` |",
        "| input rows of the step | 2 |",
        "| demo/words@1 | Word | 2 | source |",
        "v1 --> v0",
        "### asked (ask)",
        "model: some-model",
        "temperature: 0.25",
        "````\nSay | ``` <b>\n````",
        "seed 7",
        "| asked | a | 1 |",
    ):
        assert line in text, line
    assert text.index("### words") < text.index("### asked")
    assert "one" not in re.findall(r"\w+", text)  # the key in BENCH_KEY


def test_the_card_counts_what_happened_to_rows(registry: Registry) -> None:
    manifest = commit(registry, "demo/rows", [ROWS], rows_in=9, filtered=4, rejected=2)
    text = text_of(registry, manifest)
    for line in ("| in this version | 3 |", "| input rows of the step | 9 |", "| filtered | 4 |", "| rejected | 2 |"):
        assert line in text


def test_prompts_are_on_the_card_but_not_among_the_parameters(registry: Registry) -> None:
    document = {"params": {"question": "Mine", "system": None, "n": 3}, "prompts": {"question": "Mine", "system": "Be brief."}}
    text = text_of(registry, commit(registry, "demo/rows", [ROWS], document))
    assert "Mine" in text
    assert "Be brief." in text
    assert "question: Mine" not in text


def test_an_address_with_a_password_is_shown_without_it(registry: Registry) -> None:
    model = {"endpoint": "https://user:secret@host/v1", "model": "m", "stop": [], "seed": None}
    manifest = commit(registry, "demo/rows", [ROWS], {"params": {}, "models": {"teacher": model}})
    text = text_of(registry, manifest)
    assert "teacher:\n  endpoint: https://host/v1\n  model: m\n```" in text


def test_data_is_never_markup_on_the_card(registry: Registry) -> None:
    metric = Metric(metric="a|b\n<script>", slice="[x](y)", value=1)
    manifest = commit(registry, "demo/rows", [ROWS], metrics=[metric])
    text = text_of(registry, manifest)
    assert r"| a\|b \<script\> | \[x\](y) | 1 |" in text


def test_a_long_lineage_is_cut_with_a_note(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card, "SHOWN", 3)
    ref: list[VersionRef] = []
    for number in range(8):
        ref = [commit(registry, f"demo/step{number}", [ROWS], inputs=ref).ref]
    text = text_of(registry, registry.manifest(ref[0].name, 1))
    assert "... and 4 more versions: `engine lineage demo/step7@1 --up`" in text
    assert text.count("\n### ") == card.SHOWN + 1
