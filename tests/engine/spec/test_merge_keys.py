"""`<<: *name` merges a mapping into another one, as in YAML 1.1; the expanded size is limited."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import PipelineError
from engine.spec.yaml_source import YamlSource, load


def loaded(text: str, folder: Path) -> YamlSource:
    file = folder / "p.yaml"
    file.write_text(text)
    return load(file)


def test_own_keys_win_over_merged_ones(tmp_path: Path) -> None:
    text = "a: &a {x: 1, y: 2}\nb: &b {y: 3, z: 4, <<: *a}\nc:\n  z: 5\n  <<: [*b, {w: 6, x: 7}]\n"
    source = loaded(text, tmp_path)
    assert source.data["b"] == {"x": 1, "y": 3, "z": 4}
    assert source.data["c"] == {"z": 5, "y": 3, "x": 1, "w": 6}
    assert not source.problems
    # A value that was merged is where it was written.
    assert (source.position(("c", "x")).line, source.position(("c", "z")).line) == (1, 4)


def test_only_mappings_can_be_merged(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"p\.yaml:2:9: not valid YAML: << needs a mapping or a list of mappings"):
        loaded("a: 1\nb: {<<: here}\n", tmp_path)


def test_merges_of_merges_are_bounded(tmp_path: Path) -> None:
    lines = ["b0: &b0 {x: 1}"]
    lines += [f"b{n}: &b{n} {{<<: [{', '.join([f'*b{n - 1}'] * 10)}]}}" for n in range(1, 9)]
    with pytest.raises(PipelineError, match="too large or too deep"):
        loaded("\n".join(lines), tmp_path)
    with pytest.raises(PipelineError, match="this value contains an alias of itself"):
        loaded("a: &a {<<: *a}", tmp_path)
