"""The baselines of cp_calibrate: calibrated and evaluated on the same questions as LofreeCP."""

from __future__ import annotations

from typing import Any

import pytest

from registry import Registry
from tests.engine.run_pipelines import ask
from tests.operators.conformal.sampled_answers import MADE, calibrate, metrics, varied

pytestmark = pytest.mark.usefixtures("in_process", "workdir")


def test_baselines_are_calibrated_on_the_same_questions(registry: Registry) -> None:
    rows = [each | {"logprobs": [-0.1 * (index + 1) for index in range(len(each["samples"]))]} for each in varied(300)]
    calibrate(registry, *rows)
    by_method = ask(
        registry, 'select method, count(*), count(distinct question) from "demo/cal.baselines" group by 1 order by 1'
    )
    [(sets, questions)] = ask(registry, 'select count(*), count(distinct question) from "demo/cal.sets"')
    assert by_method == [(method, sets, questions) for method in ("first_k", "frequency", "logits")]
    assert "first_k_ecr alpha=0.5" in metrics(registry)
    sizes = ask(
        registry, "select distinct len(prediction) from \"demo/cal.baselines\" where method = 'first_k' and alpha = 0.5"
    )
    assert len(sizes) <= 2, "the first K answers, or all when there are fewer"


def with_options(n: int) -> list[dict[str, Any]]:
    """Questions with three options; the first is right, likely and sampled often."""
    return [
        {
            "question": f"question {number}",
            "answers": ["red"],
            "options": ["red", "green", "blue"],
            "samples": ["A"] * (4 + number % 5) + ["B"] * (6 - number % 5),
            "logprobs": [-1.0] * 10,
            "option_logprobs": [-0.5 - number % 7 / 10, -1.5, -2.0],
            "made": MADE,
        }
        for number in range(n)
    ]


def test_the_logits_baseline_is_evaluated_as_it_was_calibrated(registry: Registry) -> None:
    rows = with_options(100)
    for row_without in rows[:1], rows[50:51]:
        whole = row_without[0]["option_logprobs"]
        row_without[0]["option_logprobs"] = None
        assert calibrate(registry, *rows).state == "succeeded"
        assert metrics(registry)["logits_ecr alpha=0.2"] == 1, "all samples are equally likely"
        row_without[0]["option_logprobs"] = whole
    assert calibrate(registry, *rows).state == "succeeded"
    assert metrics(registry)["logits_ecr alpha=0.5"] < 1


def test_a_baseline_without_a_threshold_abstains_where_lofree_would_fail(registry: Registry) -> None:
    result = calibrate(registry, *varied(200, missing=0.5), none_of_these=True, on_infeasible="fail", alphas=[0.2])
    assert result.state == "succeeded", result.error
    found = metrics(registry)
    assert found["ecr_ci_high alpha=0.2"] >= 0.8
    assert found["frequency_abstained alpha=0.2"] == 1
    assert "frequency_ecr alpha=0.2" not in found
