"""Runs of `engine.run` with their workers in this process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine.run_pipelines import words

PIPELINE = """\
name: demo
params: {mark: "!", at: 2}
datasets: {words: {type: Word, path: words.jsonl}}
steps:
  loud: {op: shout, in: words, with: {mark: "${params.mark}"}}
  parts: {op: by_length, in: words, with: {at: "${params.at}"}, max_reject_ratio: 0.5}
"""


@pytest.fixture
def here(in_process: None, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the pipeline `p.yaml` and its words. Its runs have their workers in this process."""
    from tests.in_process import InProcess

    monkeypatch.setattr("engine.running.run.Cluster", lambda _: InProcess())
    Path("p.yaml").write_text(PIPELINE)
    words("hey", "a<b>", "bad", "skip", "yo")
    return workdir
