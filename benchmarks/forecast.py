"""How well a preview forecasts a run, and how far the bound of `plan` is from the truth, for ten pipelines.

`python -m benchmarks.forecast [--rows 1000] [--preview 50] [--repeat 1]`. A server on loopback answers with lengths, survival and
latencies that follow from what it is asked. Its model is called by the path of a folder with a tokenizer, as vLLM's are, so
that `plan` can count prompts. For each pipeline: the bound of the first step, a preview, the forecast of the rest of the run,
and the run itself, in this process.

Goals: the true price lies in the 80 % interval in at least 7 of 10 pipelines; the bound of a step whose rows are known is at
most 4 times what the step took.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple

from rich.console import Console

from benchmarks.endpoint import Answer, Endpoint
from engine.cli.progress import PlainProgress
from engine.execution.in_process import InProcess
from engine.pipeline.check import check
from engine.planning.plan import make_plan
from engine.previewing.forecast import STARTUP_SECONDS
from engine.previewing.preview import preview
from engine.previewing.prompt_bounds import with_prompts
from engine.running.run import run
from registry import Registry

OPERATORS = Path(__file__).with_name("forecast_operators.py")
GOAL_HITS, GOAL_BOUND = 0.7, 4.0
MAX_TOKENS = 160


class Case(NamedTuple):
    """A pipeline: its steps, and how the server answers.

    Attributes:
        good: the share of answers that are good.
        spread: the spread of the lengths of answers, lognormal; the median has 60 tokens.
        texts: the spread of the lengths of source texts.
    """

    name: str
    steps: dict[str, Any]
    good: float = 1.0
    spread: float = 0.4
    texts: float = 0.4


def _step(op: str, source: str, **more: Any) -> dict[str, Any]:
    return {"op": op, "in": source, "max_reject_ratio": 1.0, **more}


CASES = [
    Case("one step", {"a": _step("answered", "texts")}),
    Case("answers of very different lengths", {"a": _step("answered", "texts")}, spread=1.0),
    Case("texts of very different lengths", {"a": _step("answered", "texts")}, texts=1.2),
    Case("half survives", {"a": _step("answered", "texts"), "b": _step("answered", "a")}, good=0.5),
    Case("a tenth survives", {"a": _step("answered", "texts"), "b": _step("answered", "a")}, good=0.1),
    Case("almost all survive", {"a": _step("answered", "texts"), "b": _step("answered", "a")}, good=0.97),
    Case("up to four attempts", {"a": _step("answered", "texts", **{"with": {"attempts": 4}})}, good=0.4),
    Case(
        "pieces of answers, judged",
        {"a": _step("answered", "texts"), "p": _step("pieces", "a"), "j": _step("judged", "p"), "b": _step("tried", "j.kept")},
        good=0.6,
        spread=0.8,
    ),
    Case("duplicates removed", {"d": _step("once", "texts"), "a": _step("answered", "d"), "b": _step("tried", "a")}, good=0.8),
    Case(
        "four steps",
        {"a": _step("answered", "texts"), "b": _step("judged", "a"), "c": _step("tried", "b.kept"), "d": _step("judged", "c")},
        good=0.7,
        spread=0.7,
    ),
]


class Outcome(NamedTuple):
    """The figures of a pipeline. The truth is that of the run after the preview; `bounded` is what the first step took in all."""

    name: str
    price: float
    low: float
    expected: float
    high: float
    seconds: float
    expected_seconds: float
    bound: float
    old_bound: float

    @property
    def is_hit(self) -> bool:
        """Whether the true price lies in the interval."""
        return self.low <= self.price <= self.high


def scripted(body: dict[str, Any]) -> Answer:
    """The server's answer: a length and a judgement that follow from what is asked and from the environment."""
    asked = json.dumps([body["messages"], body.get("seed")])
    draws = random.Random(hashlib.sha256(f"{os.environ['FORECAST_CASE']} {asked}".encode()).digest())
    good, spread = float(os.environ["FORECAST_GOOD"]), float(os.environ["FORECAST_SPREAD"])
    length = max(3, min(MAX_TOKENS, round(60 * math.exp(spread * NormalDist().inv_cdf(draws.random())))))
    words = [
        draws.choice(["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"])
        for _ in range(max(1, length // 5))
    ]
    text = " ".join(["GOOD" if draws.random() < good else "BAD", *words])
    # Every request of a prompt has a number of its own, so that attempts differ.
    return Answer(text, _tokens(json.dumps(body["messages"])), length)


@cache
def _tokenizer() -> Any:
    from engine.llm.local.tokenizer import Tokenizer

    return Tokenizer(Path(os.environ["FORECAST_MODEL"]))


@cache
def _tokens(messages: str) -> int:
    return int(_tokenizer().count_prompt(json.loads(messages)))


def write_tokenizer(folder: Path) -> None:
    """A small tokenizer that knows common words, with a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=2000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    made.train_from_iterator([OPERATORS.read_text(), __doc__ or "", " ".join(_WORDS)], trainer)
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    template = "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}<|assistant|>\n"
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))


_WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "while",
    "many",
    "small",
    "birds",
    "sing",
    "about",
    "rain",
    "and",
    "sun",
    "in",
    "early",
    "spring",
]


def write_texts(file: Path, rows: int, spread: float, seed: str) -> None:
    """Source texts of lognormal lengths, a fifth of which begin like another one."""
    draws = random.Random(seed)
    with file.open("w") as lines:
        for number in range(rows):
            start = f"{number if draws.random() < 0.8 else draws.randrange(rows):013d} "
            count = max(3, round(40 * math.exp(spread * draws.gauss(0, 1))))
            lines.write(json.dumps({"text": start + " ".join(draws.choices(_WORDS, k=min(count, 2000))) + f" {number}"}) + "\n")


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(values)
    yield
    os.environ.clear()
    os.environ.update(before)


def measured(case: Case, rows: int, previewed: int, seed: int, folder: Path) -> Outcome:
    """Plan, preview and run a pipeline, in a folder with the operators and the model."""
    model = folder / "model"
    # Each pipeline has rows and answers of its own: otherwise a sample that is not typical would count ten times.
    values = {"FORECAST_CASE": f"{seed} {case.name}", "FORECAST_GOOD": f"{case.good}", "FORECAST_SPREAD": f"{case.spread}"}
    with (
        tempfile.TemporaryDirectory() as place,
        _environment(**values, FORECAST_MODEL=str(model)),
        Endpoint(latency=0.02, sigma=0.6, answer="benchmarks.forecast:scripted") as server,
    ):
        write_texts(folder / "texts.jsonl", rows, case.texts, f"{seed} {case.name}")
        price = {"input": 1.0, "output": 4.0}
        teacher = {"provider": "openai", "model": str(model), "base_url": server.base_url, "max_tokens": MAX_TOKENS, "seed": 1}
        document = {
            "name": "forecast",
            "seed": seed,
            "operators": ["forecast_operators.py"],
            "models": {"teacher": teacher | {"price": price}, "judge": teacher | {"price": {"input": 0.2, "output": 0.8}}},
            "datasets": {"texts": {"type": "Passage", "path": "texts.jsonl"}},
            "steps": case.steps,
        }
        (folder / "p.yaml").write_text(json.dumps(document))
        pipeline, registry = check(folder / "p.yaml"), Registry(Path(place, "registry"))
        observer = PlainProgress(Console(quiet=True))
        scratch = Registry(Path(place, "scratch"))
        plan = make_plan(pipeline, scratch, select=set(), force=set())
        tight = with_prompts(pipeline, plan, scratch)
        made = preview(pipeline, registry, observer, select=set(), rows=previewed)
        assert made.forecast, made.error
        result = run(pipeline, registry, observer, select=set(), force=set(), cluster=InProcess(64))
        assert result.state == "succeeded", result.error
        first = next(iter(case.steps))
        previews = [each.tokens_in + each.tokens_out for each in made.steps if each.name == first]
        runs = [each.record.tokens_in + each.record.tokens_out for each in result.steps if each.record.step == first]
        taken = sum(previews + runs)
        bounds = [next(each.tokens for each in plans.steps if each.name == first) for plans in (tight, plan)]
        low, expected, high = made.forecast.cost_usd.low, made.forecast.cost_usd.expected, made.forecast.cost_usd.high
        return Outcome(
            case.name,
            sum(each.record.cost_usd for each in result.steps),
            low,
            expected,
            high,
            result.seconds,
            made.forecast.seconds.expected - STARTUP_SECONDS,
            *(bound / taken if taken else 0.0 for bound in bounds),
        )


def main() -> None:
    """Print a line for each pipeline. The exit code is 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--preview", type=int, default=50)
    parser.add_argument("--repeat", type=int, default=1, help="with other rows each time")
    chosen = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_tokenizer(folder / "model")
        shutil.copy(OPERATORS, folder)
        print(
            f"{'pipeline':36} {'price':>8} {'forecast (80 %)':>28}      {'seconds':>7} {'forecast':>8} {'bound/truth':>11} {'before':>7}"
        )
        for seed in range(chosen.repeat):
            for case in CASES:
                each = measured(case, chosen.rows, chosen.preview, seed, folder)
                found.append(each)
                within = f"{each.expected:.4f} ({each.low:.4f} to {each.high:.4f})"
                bounds = f"{each.bound:11.1f} {each.old_bound:7.0f}" if each.bound else ""
                print(
                    f"{each.name:36} {each.price:8.4f} {within:>28} {'in ' if each.is_hit else 'OUT'} "
                    f"{each.seconds:8.1f} {each.expected_seconds:8.1f} {bounds}",
                    flush=True,
                )
    hits = sum(each.is_hit for each in found)
    worst = max(each.bound for each in found)
    print(
        f"in the interval: {hits} of {len(found)} (goal: {GOAL_HITS:.0%}); worst bound: {worst:.1f} times (goal: {GOAL_BOUND:g})"
    )
    sys.exit(hits < GOAL_HITS * len(found) or worst > GOAL_BOUND)


if __name__ == "__main__":
    main()
