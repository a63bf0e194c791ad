"""Calibration with an encoder: similar answers score lower, merge, and limit the distance."""

from __future__ import annotations

from typing import Any

import pytest

from registry import Registry
from tests.engine.run_pipelines import ask
from tests.operators.alignment.conflicts import write
from tests.operators.conformal.sampled_answers import MADE, run_conformal

pytestmark = pytest.mark.usefixtures("in_process", "workdir")


ENCODER = {"encoder": {"provider": "sentence-transformers", "model": "all-minilm-l6-v2"}}


def worded(number: int, **more: Any) -> dict[str, Any]:
    """Answers in words, two of which have the same meaning."""
    texts = ["the United States"] * (4 + number % 3) + ["United States of America"] * 3 + ["a banana"] * (1 + number % 2)
    accepted = ["United States of America"] if number % 4 else ["a submarine"]
    return {"question": f"question {number}", "answers": accepted, "samples": texts[:10], "made": MADE, **more}


def test_similar_answers_score_lower_merge_by_embedding_and_limit_the_distance(registry: Registry) -> None:
    write("samples.jsonl", *map(worded, range(80)))
    settings = {"alphas": [0.4]}
    steps = {
        "plain": {"op": "cp_calibrate", "in": "samples", "with": settings},
        "merged": {
            "op": "cp_calibrate",
            "in": "samples",
            "with": {**settings, "equivalence": "embedding", "min_similarity": 0.8},
        },
        "near": {"op": "cp_calibrate", "in": "samples", "with": {**settings, "loss": "distance"}},
        "predict": {"op": "cp_predict", "in": {"samples": "samples", "calibration": "plain.calibration"}},
        "other": {
            "op": "cp_predict",
            "in": {"samples": "samples", "calibration": "near.calibration"},
            "models": {"encoder": "encoder"},
        },
        "report": {"op": "lofreecp_report", "in": {"sets": "near.sets", "calibration": "near.calibration"}},
    }
    result = run_conformal(registry, steps, ENCODER)
    assert result.state == "succeeded", result.error
    assert "| mean loss |" in ask(registry, 'select text from "demo/report"')[0][0]
    assert ask(registry, 'select encoder from "demo/plain.calibration"')[0][0].startswith("all-minilm-l6-v2")
    shown = {text for (text,) in ask(registry, 'select distinct unnest(prediction) from "demo/merged.sets"')}
    assert not {"the United States", "United States of America"} <= shown
    [(risk,)] = ask(
        registry, "select value from metrics where name = 'demo/near.calibration' and metric = 'risk' and slice = 'alpha=0.4'"
    )
    assert risk <= 0.45
    assert ask(registry, 'select count(loss) = count(*) from "demo/near.sets"') == [(True,)]
    same = """select count(*) from "demo/plain.sets" a join "demo/predict" b using (question, alpha) where a.prediction != b.prediction"""
    assert ask(registry, same) == [(0,)]
