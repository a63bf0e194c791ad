"""Does LofreeCP beat logits? `python -m benchmarks.lofreecp [--quick] [--options] [--plot lofreecp.png]`

The embedded model answers questions about countries, 20 samples each, through a pipeline of this project. Then, 100 times, the questions
that are not for tuning are shuffled into a calibration half and an evaluation half. Four methods are calibrated on one half and measured
on the other: LofreeCP with the weights that the tuning questions chose, its frequency alone, the first K answers, and split conformal
prediction on log-probabilities (per token of the answer; with --options, of the option's letter).

Levels are 0.1 to 0.5. Below the smallest feasible alpha of a half its thresholds are infinite and it makes no sets; the table says how
often. (Where that is frequent, it selects the remaining shuffles: few right answers were never sampled in their calibration half, so more
in the other half, and they cover less. The plot omits such levels.) Values are means over the shuffles. Intervals contain 95 % of the
shuffles; shuffles share questions, so these are not confidence intervals for other questions. The difference in size between LofreeCP and
logits is computed per shuffle.

The paper (arXiv 2403.01216) reports smaller sets at valid coverage on TriviaQA, WebQuestions and MMLU, with Llama-2 models. The exit code
only says whether the benchmark ran.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from engine.cli.progress import PlainProgress
from engine.llm.encoder import Encoder
from engine.llm.local.sentence_transformers import LocalEncoder
from engine.llm.types.model_spec import ModelSpec
from engine.llm.weights import identify_encoder, materialise
from engine.pipeline.check import check
from engine.running.run import run
from operators.charts import Bar, save_intervals
from operators.conformal.baselines import all_options_scored, baselines
from operators.conformal.pools import Answered, answered
from operators.conformal.splits import Shares, split
from operators.conformal.theory import (
    average_size,
    coverage,
    covers,
    lofree_scores,
    quantiles,
    size_stratified_miscoverage,
    smallest_alpha,
    true_scores,
    tune,
)
from operators.records import SampledAnswers
from registry import Registry

NAME = r"[A-Z][\w'-]+(?:(?: (?:of the|of|and|the))? [A-Z][\w'-]+)*"
"""Words with capital letters."""
ALPHAS = (0.1, 0.2, 0.3, 0.4, 0.5)
METHODS = {"lofree": "LofreeCP", "frequency": "frequency only", "first_k": "First-K", "logits": "logits (split CP)"}
MEASURES = {"ecr": "covered (ECR), %", "apss": "answers in a set (APSS)", "ssm": "worst by size (SSM), %"}


@dataclass(frozen=True)
class Settings:
    """The size of the benchmark.

    Args:
        questions: the maximum number of questions.
        samples: the number of samples of each question.
        shuffles: the number of shuffles into calibration and evaluation.
    """

    questions: int = 440
    samples: int = 20
    shuffles: int = 100


QUICK = Settings(questions=40, samples=6, shuffles=5)

OFTEN = 0.9
"""A level that is feasible in this share of the shuffles is drawn, and compared."""


class Measured(NamedTuple):
    """The results of a method in one shuffle."""

    ecr: float
    apss: float
    ssm: float


Found = Mapping[tuple[str, float], Mapping[int, Measured]]
"""(method, alpha) -> of each shuffle in which the level is feasible."""


def pipeline(settings: Settings, options: bool) -> dict[str, Any]:
    """Questions and samples."""
    model = {"provider": "transformers", "model": "smollm2-135m-instruct", "batch_size": 64}
    facts = {"kinds": ["capital", "country", "continent"], "population": 400_000}
    asked: dict[str, Any] = {"samples": settings.samples, "logprobs": True}
    if options:
        model |= {"temperature": 1.0, "max_tokens": 2}
        facts = {"population": 1_000_000}
    else:
        # The model answers in sentences; the answer is taken out of them.
        model |= {"temperature": 0.7, "max_tokens": 16, "stop": ["\n", "."]}
        asked |= {
            "prompt": "{{ question }} Answer in one short sentence.",
            "answer_pattern": f"is the capital(?: city)? of (?:the )?({NAME})|capital(?: city)? of .{{0,40}}? is ({NAME})|"
            "(Africa|Asia|Europe|(?:North |South )?America|Oceania)",
        }
    return {
        "name": "lofreecp",
        "seed": 1,
        "models": {"model": model},
        "datasets": {
            "questions": {
                "type": "Question",
                "generator": f"country_questions/{'options' if options else 'open'}",
                "with": facts,
                "limit": settings.questions,
            }
        },
        "steps": {"sample": {"op": "sample_answers", "in": "questions", "with": asked}},
    }


def sampled(settings: Settings, options: bool) -> list[SampledAnswers]:
    """Run the pipeline."""
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "p.yaml"
        file.write_text(json.dumps(pipeline(settings, options)))
        registry = Registry(Path(temporary) / "registry")
        result = run(check(file), registry, PlainProgress(Console(stderr=True)), select=set(), force=set())
        if result.state != "succeeded":
            raise SystemExit(result.error)
        return list(registry.records("lofreecp/sample", SampledAnswers))


async def pools(rows: Sequence[SampledAnswers]) -> Answered:
    """The rows' answers, with similarities by the embedded encoder."""
    spec = ModelSpec(provider="sentence-transformers", model="all-minilm-l6-v2")
    with tempfile.TemporaryDirectory() as temporary:
        folder = materialise(identify_encoder(spec.model), Registry(Path(temporary)).store)
        encoder = Encoder("encoder", LocalEncoder(spec, lambda: folder), spec.model)
        return await answered(rows, "qa", encoder, 0.85)


def shuffled(rows: Sequence[SampledAnswers], found: Answered, settings: Settings) -> tuple[Found, list[float], str]:
    """Measure all methods on each shuffle; also the smallest feasible alpha of each, and the chosen weights."""
    sides = split(rows, [], Shares(tune=0.2, calibrate=0.4, evaluate=0.4), seed=1).rows
    rest = np.array(sorted(sides["calibrate"] + sides["evaluate"]))
    tuned = tune(found.pools.take(sides["tune"]), ALPHAS)
    kinds = baselines(rows, found, by_option=all_options_scored(rows))
    others = {name: (each.scores, each.found.pools.correct) for name, each in kinds.items()}
    kept: dict[tuple[str, float], dict[int, Measured]] = {}
    feasible = []
    for number in range(settings.shuffles):
        order = np.random.default_rng(number).permutation(rest)
        before, after = order[: len(order) // 2], order[len(order) // 2 :]
        frequency, correct = others["frequency"]
        feasible.append(smallest_alpha(true_scores(frequency, correct)[before]).alpha)
        for alpha, chosen in zip(ALPHAS, tuned, strict=True):
            here = {"lofree": (lofree_scores(found.pools, *chosen.weights), found.pools.correct), **others}
            for method, (scores, right) in here.items():
                true = true_scores(scores, right)
                [threshold] = quantiles(true[before], [alpha])
                if np.isinf(threshold):
                    continue
                sizes, hit = (scores[after] <= threshold).sum(axis=1), covers(true[after], threshold)
                ssm = size_stratified_miscoverage(sizes, hit).value
                measured = Measured(coverage(hit).value, average_size(sizes).value, ssm)
                kept.setdefault((method, alpha), {})[number] = measured
    weights = ", ".join(
        f"alpha {a:g}: {t.weights.entropy:g}/{t.weights.similarity:g}" for a, t in zip(ALPHAS, tuned, strict=True)
    )
    return kept, feasible, weights


def bar(values: Sequence[float], scale: float = 1.0) -> Bar:
    """The mean, and between which values 95 % of the shuffles lie; NaN are left out (an SSM of too few sets)."""
    known = scale * np.array([each for each in values if not np.isnan(each)])
    if not len(known):
        return Bar(*[float("nan")] * 3)
    low, high = np.quantile(known, (0.025, 0.975))
    return Bar(float(known.mean()), float(low), float(high))


def report(found: Found, settings: Settings, console: Console, plot: Path) -> None:
    """The tables and the plot."""
    table = Table(title=f"{settings.shuffles} shuffles; mean [95 % of the shuffles]")
    for column in ("alpha", "method", "feasible", *MEASURES.values()):
        table.add_column(column, justify="left" if column == "method" else "right")
    for alpha in ALPHAS:
        for method, title in METHODS.items():
            measured = list(found.get((method, alpha), {}).values())
            cells = ["-"] * len(MEASURES)
            if measured:
                bars = [bar([getattr(each, name) for each in measured], 1 if name == "apss" else 100) for name in MEASURES]
                cells = [
                    "-" if np.isnan(each.value) else f"{each.value:.2f} [{each.low:.2f}, {each.high:.2f}]" for each in bars
                ]
            table.add_row(f"{alpha:g}", title, f"{len(measured)}/{settings.shuffles}", *cells)
    console.print(table)
    for alpha in ALPHAS:
        ours, theirs = (found.get((method, alpha), {}) for method in ("lofree", "logits"))
        both = sorted(ours.keys() & theirs.keys())
        if len(both) >= OFTEN * settings.shuffles:
            change = bar([ours[number].apss - theirs[number].apss for number in both])
            console.print(
                f"alpha {alpha:g}: sets of LofreeCP have {change.value:+.2f} [{change.low:+.2f}, {change.high:+.2f}] answers "
                "against those on logits"
            )
    series = {
        title: [
            (alpha, bar([each.apss for each in shuffles.values()]))
            for alpha in ALPHAS
            if len(shuffles := found.get((method, alpha), {})) >= OFTEN * settings.shuffles
        ]
        for method, title in METHODS.items()
    }
    drawn = {name: each for name, each in series.items() if each}
    if drawn:
        title = f"Size of prediction sets, {settings.shuffles} shuffles"
        save_intervals(plot, drawn, title, "alpha", MEASURES["apss"])
        console.print(f"plot: {plot}")


def main() -> int:
    """Run the benchmark and print its results; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="little of everything: shows that it runs")
    parser.add_argument("--options", action="store_true", help="multiple choice in place of open questions")
    parser.add_argument("--plot", type=Path, default=Path("lofreecp.png"), help="where the plot goes")
    for name in ("questions", "samples", "shuffles"):
        parser.add_argument(f"--{name}", type=int, help=f"default {getattr(Settings(), name)}")
    options = parser.parse_args()
    given = {name: value for name, value in vars(options).items() if name in Settings.__annotations__ and value is not None}
    settings = Settings(**{**vars(QUICK if options.quick else Settings()), **given})
    console = Console(width=150)
    started = time.perf_counter()
    rows = sampled(settings, options.options)
    found = asyncio.run(pools(rows))
    console.print(
        f"{len(rows)} questions, {settings.samples} samples of the embedded model each; an accepted answer was sampled for "
        f"{found.pools.found.mean():.1%}; {time.perf_counter() - started:.0f} s"
    )
    kept, feasible, weights = shuffled(rows, found, settings)
    smallest = bar(feasible)
    console.print(
        f"smallest feasible alpha {smallest.value:.3f} [{smallest.low:.3f}, {smallest.high:.3f}]; lambda1/lambda2 by {weights}"
    )
    report(kept, settings, console, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
