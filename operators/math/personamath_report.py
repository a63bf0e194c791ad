"""The report of a PersonaMath run: survival, repairs, composition, diversity, accuracy before and after training."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from engine.operator import Context, Encoder, Params, Report, Table, operator
from operators.charts import Bar, save_bars
from operators.markdown import table
from operators.records import MathProblem, MathSolution
from operators.shares import Share
from operators.transforms.diversity import lexical, mean_nearest_distance, sample, word_count
from registry.counted import counted

ORIGINAL = "original"


class ReportParams(Params):
    """Parameters of personamath_report."""

    embeddings: bool = True
    most_embedded: Annotated[int, Field(ge=2)] = 5000

    def roles(self) -> set[str]:
        """The encoder, for distances between questions."""
        return {"encoder"} if self.embeddings else set()


@operator
async def personamath_report(
    problems: Table[MathProblem],
    solved: Table[MathSolution],
    unsolved: Table[MathSolution],
    repaired: Table[MathSolution],
    augmented: Table[MathSolution],
    refused: Table[MathSolution],
    training: Table[MathSolution],
    before: Table[MathSolution],
    after: Table[MathSolution],
    ctx: Context,
    encoder: Encoder | None,
    params: ReportParams,
) -> AsyncIterator[Report]:
    """Report on a PersonaMath pipeline: tables, a chart, and the composition as CSV. The numbers are also metrics.

    Metrics: `survival` and `repair_rate`; `composition` (rows by source, stage and occupation); `types`,
    `type_token_ratio`, `types_at_equal_length`, `nearest_distance` (slices seeds and augmented); `accuracy` with
    `accuracy_ci_low` and `accuracy_ci_high` (slices before and after, by source).

    Source: the composition tables and the lexical comparison of PersonaMath (arXiv 2410.01504); the embedding distance is ours.

    Args:
        problems: the seeds.
        solved, unsolved: the results of solving the seeds again.
        repaired: unsolved problems that reflection repaired.
        augmented, refused: rewrites with the seed's answer, and with another one.
        training: the rows left for training after deduplication and decontamination.
        before, after: predictions on held-out problems, before and after training.
        embeddings: whether to measure distances between questions with the encoder.
        most_embedded: the maximum number of questions to embed from each set (drawn at random).
    """
    seeds, rewrites = [row.question for row in problems], [row.question for row in augmented]
    parts = [
        _survival(ctx, len(problems), len(solved), len(unsolved), len(repaired), len(augmented), len(refused), len(training)),
        _composition(ctx, training),
        await _diversity(ctx, seeds, rewrites, encoder, params.most_embedded),
        _accuracy(ctx, list(before), list(after)),
    ]
    yield Report(title="PersonaMath", text="\n\n".join(parts), files=ctx.keep(ctx.scratch))


def _survival(
    ctx: Context, problems: int, solved: int, unsolved: int, repaired: int, augmented: int, refused: int, training: int
) -> str:
    stages = [
        ("solved again (stage 1)", problems, solved),
        ("repaired by reflection (stage 2)", unsolved, repaired),
        ("rewrites that were usable, solved to the seed's answer", augmented + refused, augmented),
        ("left to train on", solved + repaired + augmented, training),
    ]
    rows = []
    for name, given, kept in stages:
        share = "-"
        if given >= max(kept, 1):  # more are kept than went in if the pipeline also trains on other rows
            share = str(Share.of(kept, given))
            ctx.report("survival", kept / given, name)
        rows.append([name, given, kept, share])
    if unsolved:
        ctx.report("repair_rate", repaired / unsolved)
    lost = problems - solved - unsolved
    note = (
        f"\n\n{counted(lost, 'problem')} {'was' if lost == 1 else 'were'} rejected during the solving; see `rejects`."
        if lost > 0
        else ""
    )
    return (
        "## Survival\n\n"
        + table(["", "in", "out", "share (95%)"], rows)
        + note
        + "\n\nIn the paper, reflection repaired about "
        "10% of the wrong solutions. Unusable rewrites are in `rejects`, with the reason."
    )


def _composition(ctx: Context, training: Table[MathSolution]) -> str:
    counted = Counter(
        (row.source or "", row.stage, (row.occupation or "unclassified") if row.persona else ORIGINAL) for row in training
    )
    rows = [[*key, count] for key, count in sorted(counted.items())]
    for (source, stage, occupation), count in sorted(counted.items()):
        ctx.report("composition", count, f"{source} / stage {stage} / {occupation}")
    with (ctx.scratch / "composition.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["source", "stage", "occupation", "rows"], *rows])
    sources = sorted({(source, stage) for source, stage, _ in counted})
    classes = sorted({occupation for _, _, occupation in counted}, key=lambda name: (name != ORIGINAL, name))
    shown = [[name, *(counted[source, stage, name] for source, stage in sources)] for name in classes]
    shown.append(["**all**", *(sum(counted[source, stage, name] for name in classes) for source, stage in sources)])
    heads = [f"{source or 'no source'}, stage {stage}" for source, stage in sources]
    return "## Composition of the training rows\n\nRows by the occupation class of the persona.\n\n" + table(
        ["", *heads], shown
    )


async def _diversity(ctx: Context, seeds: Sequence[str], rewrites: Sequence[str], encoder: Encoder | None, most: int) -> str:
    first = min(word_count(seeds), word_count(rewrites))
    columns: list[list[object]] = []
    size = 0 if encoder is None else min(len(seeds), len(rewrites), most)
    for name, texts in (("seeds", seeds), ("augmented", rewrites)):
        found = lexical(texts, first)
        values: list[object] = [len(texts), found.tokens, found.types, f"{found.type_token_ratio:.4f}", found.types_in_first]
        ctx.report("types", found.types, name)
        ctx.report("type_token_ratio", found.type_token_ratio, name)
        ctx.report("types_at_equal_length", found.types_in_first, name)
        if encoder is not None and size > 1:
            # The sets must have equal sizes: in a larger set, the nearest neighbour is closer.
            vectors = await encoder.embed(sample(texts, size))
            distance = round(mean_nearest_distance(vectors), 4)
            ctx.report("nearest_distance", distance, name)
            values.append(f"{distance:.4f}")
        columns.append(values)
    names = ["questions", "words", "types", "type-token ratio", f"types in {first} words"]
    names += [f"mean distance to the nearest of {size}"] if size > 1 else []
    rows = [[name, *values] for name, *values in zip(names, *columns, strict=True)]
    return "## Diversity of the questions\n\n" + table(["", "seeds", "augmented"], rows)


def _accuracy(ctx: Context, before: Sequence[MathSolution], after: Sequence[MathSolution]) -> str:
    series: dict[str, list[Bar]] = {"before": [], "after": []}
    rows = []
    first, then = _by_source(before), _by_source(after)
    for source in sorted(first.keys() & then.keys()):
        shares = {name: counted[source].share for name, counted in (("before", first), ("after", then))}
        for name, share in shares.items():
            for each in share.metrics("accuracy", f"{name} {source}".strip()):
                ctx.report(each.metric, each.value, each.slice)
            series[name].append(Bar(share.value, share.low, share.high))
        rows.append([source or "**all**", first[source].problems, *map(str, shares.values())])
    if not rows:
        return "## Accuracy on held-out problems\n\nThere are no held-out problems."
    chart = ctx.scratch / "accuracy.png"
    _chart(chart, [str(row[0]).strip("*") for row in rows], series)
    gained, lost = _moved(before, after)
    return (
        "## Accuracy on held-out problems\n\n"
        + table(["source", "problems", "before (95%)", "after (95%)"], rows)
        + f"\n\nSolved only after training: {gained}; only before: {lost}.\n\n![accuracy]({chart.name})"
    )


@dataclass(frozen=True)
class _Count:
    solved: int
    problems: int

    @property
    def share(self) -> Share:
        """The share that is solved."""
        return Share.of(self.solved, self.problems)


def _by_source(predictions: Sequence[MathSolution]) -> dict[str, _Count]:
    """Counts by source, and over all sources ('') first."""
    problems: Counter[str] = Counter()
    solved: Counter[str] = Counter()
    for row in predictions:
        for part in {"", row.source or ""}:
            problems[part] += 1
            solved[part] += row.verdict == "correct"
    return {part: _Count(solved[part], problems[part]) for part in sorted(problems)}


def _chart(file: Path, groups: Sequence[str], series: dict[str, list[Bar]]) -> None:
    save_bars(file, groups, series, "Held-out problems solved, with 95% intervals", "accuracy")


def _moved(before: Sequence[MathSolution], after: Sequence[MathSolution]) -> tuple[int, int]:
    """The numbers of problems solved only after, and only before."""
    first, then = _verdicts(before), _verdicts(after)
    both = first.keys() & then.keys()
    return sum(then[each] and not first[each] for each in both), sum(first[each] and not then[each] for each in both)


def _verdicts(predictions: Sequence[MathSolution]) -> dict[tuple[object, ...], bool]:
    """Whether each problem is solved; problems that are equal in all fields are told apart by their order."""
    seen: Counter[tuple[object, ...]] = Counter()
    found: dict[tuple[object, ...], bool] = {}
    for row in predictions:
        problem = (row.source, row.id, row.question, row.answer)
        found[*problem, seen[problem]] = row.verdict == "correct"
        seen[problem] += 1
    return found
