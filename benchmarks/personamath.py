"""Does PersonaMath's recipe work? `python -m benchmarks.personamath [--quick] [--plot personamath.png]`

The ablation of the paper in miniature, offline. Pipelines of this project make four training sets from the same word problems of
reasoning_gym (gsm_symbolic), and the same small student is trained on each, with the same number of tokens:

* original: the problems with their answers, as reasoning_gym gives them;
* + CoT: regenerated solutions in place of the bare answers, where they are correct (`regenerate_cot`);
* + personas: also rewrites for five personas each (`persona_augment`);
* + reflection: also wrong solutions that could be repaired, and rewrites of those (`reflect`, `persona_augment`).

Each seed draws different problems, different mistakes of the teacher, different personas, and trains in a different order. The test
problems are the same for all: numbers that no training set has, in reasoning_gym's wording (short and long solutions separately), and in
a wording, with people and personas, that no training set has either. Intervals are 95 %, from a bootstrap over seeds and problems
together.

The teacher is a program that knows the answers (benchmarks/teacher.py), and the student can only do sums (benchmarks/student.py). So this
measures the pipeline and the student, not a teacher. The exit code only says whether the benchmark ran.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks import student
from benchmarks.teacher import Teacher, solution
from benchmarks.word_problems import Known, is_whole, recognise, rewrite
from engine.cli.progress import PlainProgress
from engine.pipeline.check import check
from engine.running.run import run
from operators.charts import Bar, save_bars
from operators.math.rewrites import problem_with
from operators.records import SFTExample
from registry import Registry

PERSONAS = Path(__file__).parents[1] / "pipelines" / "personas.jsonl"
ARMS = {
    "original": ["original"],
    "cot": ["cot.solved"],
    "personas": ["cot.solved", "augment1.solved"],
    "reflection": ["cot.solved", "augment1.solved", "reflect.solved", "augment2.solved"],
}
TITLES = {"original": "original", "cot": "+ CoT", "personas": "+ personas", "reflection": "+ reflection"}
SHORT, LONG, OTHER = "2-3 steps", "4-5 steps", "other wording"
SLICES = (SHORT, LONG, OTHER)
SHORT_STEPS = 3
SLIP, REPAIRS = 0.12, 0.6
"""The teacher's rates of wrong steps, and of right reflections."""
TEST_SEED, TRAIN_SEED = 9_000_000, 1_000_000
GENERATED_TOGETHER = 1000
MAX_LENGTH = 256
APART = 5
"""One in this many personas is kept for the test problems in another wording."""
RESAMPLES = 4000


@dataclass(frozen=True)
class Settings:
    """The size of the benchmark.

    Args:
        seeds: repetitions of everything but the student's pre-training.
        problems: the problems to make training sets from.
        test: problems in reasoning_gym's wording, and as many in another wording.
        personas: rewrites a problem.
        pretraining: steps of the student before.
        tokens: the number of tokens of prompts and completions that each training sees.
        batch: rows a training step.
        rate: the learning rate.
    """

    seeds: int = 3
    problems: int = 500
    test: int = 300
    personas: int = 5
    pretraining: int = 1800
    tokens: int = 800_000
    batch: int = 16
    rate: float = 1e-3


QUICK = Settings(seeds=1, problems=150, test=60, pretraining=200, tokens=40_000)


@dataclass(frozen=True)
class Trained:
    """The results of one arm with one seed.

    Args:
        rows: the number of rows of the training set.
        tokens: the number of tokens that the trainer went through, by the registry's training_exposure.
        right: test problem -> whether it was solved.
    """

    rows: int
    tokens: int
    right: dict[str, bool]


def known_problems(seed: int, count: int, apart: Iterable[Known] = ()) -> Iterator[tuple[dict[str, Any], Known]]:
    """Problems of gsm_symbolic that the teacher knows and whose numbers the student has met; no two of a kind have the same
    numbers, nor has one of them the numbers of one that is to be kept apart.
    """
    from reasoning_gym import create_dataset

    met = set(apart)
    most = len(met) + count
    while True:
        for item in create_dataset("gsm_symbolic", size=GENERATED_TOGETHER, seed=seed):
            known = recognise(item["question"])
            if known is None or not is_whole(known, student.MOST) or known in met:
                continue
            met.add(known)
            yield {"question": item["question"], "answer": str(item["answer"]).removesuffix(".0")}, known
            if len(met) == most:
                return
        seed += GENERATED_TOGETHER


def test_rows(problems: Iterable[tuple[dict[str, Any], Known]], personas: list[str]) -> list[dict[str, Any]]:
    """The test set, each problem in both wordings; `source` says which slice a row belongs to."""
    random = Random(TEST_SEED)
    rows = []
    for number, (row, known) in enumerate(problems):
        length = SHORT if len(known.kind.steps) <= SHORT_STEPS else LONG
        rows.append({**row, "source": length, "id": f"test-{number}"})
        rewritten = rewrite(known, random.choice(personas), random, unseen=True)
        if problem_with(row["question"], rewritten, row["answer"]) is None:
            rows.append({"question": rewritten, "answer": row["answer"], "source": OTHER, "id": f"other-{number}"})
    return rows


def pipeline(seed: int, base: Path, base_url: str, settings: Settings) -> dict[str, Any]:
    """Four training sets, four trainings, four evaluations."""
    local = {"provider": "transformers", "max_tokens": 96, "batch_size": 64}
    steps: dict[str, Any] = {
        "cot": {"op": "regenerate_cot", "in": "problems"},
        "augment1": _augment("cot.solved", settings.personas),
        "reflect": {"op": "reflect", "in": "cot.unsolved"},
        "augment2": _augment("reflect.solved", settings.personas, solve_with="reflect"),
    }
    for arm, sources in ARMS.items():
        training: dict[str, Any] = {
            "batch_size": settings.batch,
            "learning_rate": settings.rate,
            "max_length": MAX_LENGTH,
            "lora": None,
        }
        training["max_steps"] = f"${{params.steps_{arm}}}"
        steps[f"rows-{arm}"] = {"op": "to_sft", "in": sources}
        steps[f"sft-{arm}"] = {"op": "train_sft", "in": f"rows-{arm}", "models": {"student": "base"}, "with": training}
        steps[f"test-{arm}"] = {"op": "evaluate_math", "in": "test", "models": {"student": arm}}
    return {
        "name": f"ablation-{seed}",
        "seed": seed,
        "params": {f"steps_{arm}": 1 for arm in ARMS},
        "models": {
            "teacher": {"provider": "openai", "model": "program", "base_url": base_url, "max_tokens": 256},
            "base": {**local, "model": str(base)},
            **{arm: {**local, "model": f"step:sft-{arm}"} for arm in ARMS},
        },
        "datasets": {
            "problems": {"type": "MathProblem", "path": "problems.jsonl"},
            "original": {"type": "MathSolution", "path": "original.jsonl"},
            "personas": {"type": "Persona", "path": "personas.jsonl"},
            "test": {"type": "MathProblem", "path": "../test.jsonl"},
        },
        "steps": steps,
    }


def _augment(solution: str, count: int, **more: Any) -> dict[str, Any]:
    inputs = {"solution": solution, "personas": "personas"}
    return {"op": "persona_augment", "in": inputs, "with": {"personas_per_problem": count, **more}, "max_reject_ratio": 0.5}


def one_seed(seed: int, folder: Path, base: Path, settings: Settings, registry: Registry) -> tuple[dict[str, Trained], str]:
    """Run a seed's pipeline twice: for the training sets, and with as many training steps as make the tokens equal.

    Returns:
        The results of each arm, and a line about the teacher's part.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    with Teacher(SLIP, REPAIRS, seed) as teacher:
        file = folder / "ablation.yaml"
        file.write_text(json.dumps(pipeline(seed, base, teacher.base_url, settings)))
        name = f"ablation-{seed}"
        run_pipeline(file, registry, [], {f"rows-{arm}" for arm in ARMS})
        lengths = {arm: token_counts(registry.records(f"{name}/rows-{arm}@1", SFTExample), tokenizer) for arm in ARMS}
        steps = {arm: round(settings.tokens / np.mean(each) / settings.batch) for arm, each in lengths.items()}
        run_pipeline(file, registry, [f"steps_{arm}={max(1, count)}" for arm, count in steps.items()], set())
    found = {}
    with registry.session() as session:
        for arm in ARMS:
            exposed = "select row, times_seen from training_exposure where model = ?"
            seen = sum(lengths[arm][row] * times for row, times in session.ask(exposed, [f"{name}/sft-{arm}"]).rows)
            verdicts = session.ask(f"select id, verdict = 'correct' from \"{name}/test-{arm}\"").rows
            found[arm] = Trained(len(lengths[arm]), seen, dict(verdicts))
        survived = dict(session.ask("select name, rows from datasets where name like ?", [f"{name}/%"]).rows)
    return found, _survival({key.partition("/")[2]: count for key, count in survived.items()})


def _survival(rows: dict[str, int]) -> str:
    return (
        f"{rows['cot.solved']} of {rows['problems']} problems solved; {rows['reflect.solved']} of {rows['cot.unsolved']} others "
        f"repaired; {rows['augment1.solved']} and {rows['augment2.solved']} rewrites kept, "
        f"{rows['augment1.rejected']} and {rows['augment2.rejected']} solved wrongly"
    )


def run_pipeline(file: Path, registry: Registry, params: list[str], steps: set[str]) -> None:
    """Run these steps, or all; a failure ends the benchmark."""
    observer = PlainProgress(Console(stderr=True, quiet=True))
    result = run(check(file, params), registry, observer, select=steps, force=set())
    if result.state != "succeeded":
        raise SystemExit(f"{file}: {result.error}")


def token_counts(examples: Iterable[SFTExample], tokenizer: Any) -> list[int]:
    """The length of each example as the trainer sees it."""
    turns = [[turn.model_dump() for turn in (*each.prompt, *each.completion)] for each in examples]
    return [len(ids) for ids in tokenizer.apply_chat_template(turns, return_dict=True)["input_ids"]]


def write(file: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows into a JSON Lines file."""
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def interval(right: np.ndarray, less: np.ndarray | None = None) -> Bar:
    """The share that is right over seeds (rows) and problems (columns), or how much it is above another one.

    The interval holds 95 % of what resampling seeds and problems gives; with one seed it is over problems alone.
    """
    values = right.astype(float) - (0.0 if less is None else less.astype(float))
    random = np.random.default_rng(0)
    seeds, problems = values.shape
    means = [
        values[np.ix_(random.integers(0, seeds, seeds), random.integers(0, problems, problems))].mean()
        for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(means, (0.025, 0.975))
    return Bar(float(values.mean()), float(low), float(high))


def in_slices(found: list[dict[str, Trained]], slices: dict[str, str]) -> dict[tuple[str, str], np.ndarray]:
    """(arm, slice) -> right or not, a row for each seed and a column for each test problem."""
    return {
        (arm, name): np.array([[each[arm].right[id] for id in slices if slices[id] == name] for each in found])
        for arm in ARMS
        for name in SLICES
    }


def report(found: list[dict[str, Trained]], slices: dict[str, str], console: Console, plot: Path) -> None:
    """The tables and the plot."""
    right = in_slices(found, slices)
    table = Table(title=f"accuracy in %, {len(found)} seed(s); [95 % interval]; below it each seed's")
    table.add_column("training set")
    for column in ("rows", "tokens", *(f"{name} ({right['original', name].shape[1]})" for name in SLICES)):
        table.add_column(column, justify="right")
    for arm in ARMS:
        rows, tokens = (np.mean([getattr(each[arm], name) for each in found]) for name in ("rows", "tokens"))
        cells = [_cell(interval(right[arm, name])) + "\n" + _each(right[arm, name]) for name in SLICES]
        table.add_row(TITLES[arm], f"{rows:.0f}", f"{tokens:,.0f}", *cells)
    console.print(table)
    gains = Table(title="gain in points over the line above it, same seeds and problems")
    gains.add_column("training set")
    for name in SLICES:
        gains.add_column(name, justify="right")
    for before, arm in zip(ARMS, list(ARMS)[1:], strict=False):
        gains.add_row(TITLES[arm], *(_cell(interval(right[arm, name], right[before, name])) for name in SLICES))
    console.print(gains)
    bars = {TITLES[arm]: [_percent(interval(right[arm, name])) for name in SLICES] for arm in ARMS}
    title = f"A small student after four training sets of equal tokens ({len(found)} seed(s))"
    save_bars(plot, [f"{name}" for name in SLICES], bars, title, "held-out accuracy, %")
    console.print(f"plot: {plot}")


def _percent(bar: Bar) -> Bar:
    return Bar(100 * bar.value, 100 * bar.low, 100 * bar.high)


def _cell(bar: Bar) -> str:
    return f"{100 * bar.value:.1f} [{100 * bar.low:.1f}, {100 * bar.high:.1f}]"


def _each(right: np.ndarray) -> str:
    return " ".join(f"{100 * share:.0f}" for share in right.mean(axis=1))


def main() -> int:
    """Run the benchmark and print its results; returns the exit code."""
    # Two threads that wait for each other by spinning are slower than one as soon as something else runs on the machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one seed and little of everything: shows that it runs")
    parser.add_argument("--plot", type=Path, default=Path("personamath.png"), help="where the plot goes")
    for name, of in (("seeds", int), ("problems", int), ("test", int), ("pretraining", int), ("tokens", int), ("rate", float)):
        parser.add_argument(f"--{name}", type=of, help=f"default {getattr(Settings(), name)}")
    parser.add_argument("--student", type=Path, help="a folder to keep the pre-trained student in; used when it is there")
    options = parser.parse_args()
    given = {name: value for name, value in vars(options).items() if name in Settings.__annotations__ and value is not None}
    settings = Settings(**{**vars(QUICK if options.quick else Settings()), **given})
    console = Console(width=120)
    console.print(
        f"The teacher is a program that knows the answers (each step goes wrong at {SLIP:.0%}, reflection repairs "
        f"{REPAIRS:.0%}): this measures the pipeline and the student, not a teacher."
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        people = [json.loads(line) for line in PERSONAS.read_text().splitlines()]
        tested = list(known_problems(TEST_SEED, settings.test))
        test = test_rows(tested, [each["persona"] for each in people[::APART]])
        write(folder / "test.jsonl", test)
        base = (options.student or folder / "student").absolute()
        if not (base / "config.json").exists():
            console.print(f"pre-training the student: {_pretrain(base, settings, people)}")
        registry, found = Registry(folder / "registry"), []
        for seed in range(1, settings.seeds + 1):
            started = time.perf_counter()
            problems = [row for row, _ in known_problems(TRAIN_SEED * seed, settings.problems, [known for _, known in tested])]
            bare = [{**row, "solution": f"The answer is \\boxed{{{row['answer']}}}.", "verdict": "correct"} for row in problems]
            write(folder / str(seed) / "problems.jsonl", problems)
            write(folder / str(seed) / "original.jsonl", bare)
            write(folder / str(seed) / "personas.jsonl", [each for place, each in enumerate(people) if place % APART])
            trained, survival = one_seed(seed, folder / str(seed), base, settings, registry)
            found.append(trained)
            console.print(f"seed {seed}: {survival}; {time.perf_counter() - started:.0f} s")
        report(found, {row["id"]: row["source"] for row in test}, console, options.plot)
    return 0


def _pretrain(base: Path, settings: Settings, people: list[dict[str, Any]]) -> str:
    random = Random(0)
    texts = [each["persona"] for each in people]
    for row, known in known_problems(TRAIN_SEED // 2, 1000):
        texts += [row["question"], rewrite(known, random.choice(texts[: len(people)]), random), solution(known, 0.0, random)]
    started = time.perf_counter()
    losses: list[float] = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("pre-training", total=settings.pretraining)

        def step(_: int, loss: float) -> None:
            losses.append(loss)
            progress.advance(task)

        student.build(base, texts, settings.pretraining, step)
    return f"loss {np.mean(losses[-50:]):.2f} after {settings.pretraining} steps, {time.perf_counter() - started:.0f} s"


if __name__ == "__main__":
    sys.exit(main())
