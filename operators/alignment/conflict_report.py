"""What a Dialectical Alignment run made, for people: cells by models, the defence, and what it cost in good contexts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from engine.operator import Context, Report, Table, operator
from operators.charts import save_lines
from operators.intervals import wilson
from operators.markdown import table
from operators.records import ConflictPrediction, StrategyChoice

CHART = "accuracy.png"


class Cell(NamedTuple):
    """Poisoned passages, and whether there are factual ones."""

    pcn: int
    fc: bool

    def __str__(self) -> str:
        return f"{self.pcn} poisoned" + (", factual" if self.fc else "")


class Group(NamedTuple):
    """Cells that stand for one question to a model."""

    name: str
    holds: Callable[[Cell], bool]


GROUPS = (
    Group("poisoned contexts only", lambda cell: cell.pcn > 0 and not cell.fc),
    Group("poisoned and factual contexts", lambda cell: cell.pcn > 0 and cell.fc),
    Group("factual contexts only (IKE)", lambda cell: cell.pcn == 0 and cell.fc),
    Group("no contexts (closed book)", lambda cell: cell.pcn == 0 and not cell.fc),
)
MEASURES: Mapping[str, Callable[[ConflictPrediction], bool | None]] = {
    "accuracy": lambda row: row.correct,
    "strict": lambda row: row.strict,
    "attacked": lambda row: row.attacked,
    "attacked_strict": lambda row: row.attacked_strict,
}
_SHOWN = {
    "accuracy": "correct (judge)",
    "strict": "correct (strict)",
    "attacked": "attacked",
    "attacked_strict": "attacked (strict)",
}


class Share(NamedTuple):
    """Of `n` predictions, how many, with the 95 % interval."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.1%} ({self.low:.1%} to {self.high:.1%})" if self.n else "-"


def share(values: Iterable[bool | None]) -> Share:
    """The share that is true of those that are known."""
    known = [value for value in values if value is not None]
    low, high = wilson(sum(known), len(known))
    return Share(sum(known) / len(known) if known else 0.0, low, high, len(known))


@operator(outputs=Report)
async def conflict_report(
    before: Table[ConflictPrediction],
    ctx: Context,
    sft: Table[ConflictPrediction] | None = None,
    dpo: Table[ConflictPrediction] | None = None,
    strategies: Table[StrategyChoice] | None = None,
) -> AsyncIterator[Report]:
    """Report on models among poisoned contexts: one table of cells by models, the defence, a plot over poisoned passages.

    `correct` is by the judge, and strictly by the text (it concludes with the correct answer); `attacked` counts responses
    that contain the incorrect answer anywhere, as PoisonedRAG does, and strictly those that conclude with it. The first
    count is too high where the incorrect answer is part of a refusal ("no" in "I don't know") or is named to be denied.

    Metrics: `accuracy`, `strict`, `attacked`, `attacked_strict` with ci_low and ci_high, by model and group of cells;
    `gain` of each model over the one before training.

    Args:
        before: predictions of the model as it came.
        sft, dpo: of the models that were trained.
        strategies: what was found to answer with.
    """
    models = {name: list(rows) for name, rows in (("before", before), ("sft", sft), ("dpo", dpo)) if rows is not None}
    judged = any(row.correct is not None for row in models["before"])
    parts = [_summary(ctx, models, judged), _cells(models, judged)]
    if strategies is not None:
        parts.insert(1, _strategies(list(strategies)))
    chart = ctx.scratch / CHART
    _chart(chart, models, "accuracy" if judged else "strict")
    parts.append(f"![accuracy by poisoned passages]({chart.name})")
    yield Report(title="Dialectical Alignment", text="\n\n".join(parts), files=ctx.keep(ctx.scratch))


def _summary(ctx: Context, models: Mapping[str, Sequence[ConflictPrediction]], judged: bool) -> str:
    measures = list(MEASURES) if judged else [name for name in MEASURES if name != "accuracy"]
    lines: list[list[object]] = []
    for group in GROUPS:
        first: dict[str, Share] = {}
        for model, rows in models.items():
            held = [row for row in rows if group.holds(Cell(row.pcn, row.fc))]
            if not held:
                continue
            found = {name: share(map(MEASURES[name], held)) for name in measures}
            for name, each in found.items():
                for metric, value in ((name, each.value), (f"{name}_ci_low", each.low), (f"{name}_ci_high", each.high)):
                    ctx.report(metric, value, f"{model}: {group.name}")
                if first and each.n:
                    ctx.report(f"{name}_gain", each.value - first[name].value, f"{model}: {group.name}")
            first = first or found
            lines.append([group.name, model, len(held), *map(str, found.values())])
    shown = [_SHOWN[name] for name in measures]
    return (
        "## Held-out items\n\n"
        + table(["contexts", "model", "cases", *shown], lines)
        + "\n\nThe paper reports about 20 points more defence, with knowledge editing (IKE) about intact."
    )


def _cells(models: Mapping[str, Sequence[ConflictPrediction]], judged: bool) -> str:
    measure = MEASURES["accuracy" if judged else "strict"]
    cells = sorted({Cell(row.pcn, row.fc) for rows in models.values() for row in rows}, key=lambda cell: (cell.fc, cell.pcn))
    lines: list[list[object]] = []
    for cell in cells:
        line: list[object] = [str(cell)]
        for rows in models.values():
            held = [row for row in rows if Cell(row.pcn, row.fc) == cell]
            line += [str(share(map(measure, held))), str(share(row.attacked_strict for row in held))]
        lines.append(line)
    columns = [f"{model}: {what}" for model in models for what in ("correct", "attacked (strict)")]
    return "## Cells\n\n" + table(["contexts", *columns], lines)


def _strategies(choices: Sequence[StrategyChoice]) -> str:
    chosen = sorted((each for each in choices if each.chosen), key=lambda each: (each.fc, each.pcn))
    lines = []
    for each in chosen:
        correct = f"{each.accuracy:.1%} ({each.ci_low:.1%} to {each.ci_high:.1%})"
        lines.append([str(Cell(each.pcn, each.fc)), each.path, each.n, correct, each.note or ""])
    return "## Strategies found\n\n" + table(["contexts", "path", "responses", "correct", ""], lines)


def _chart(file: Path, models: Mapping[str, Sequence[ConflictPrediction]], measure: str) -> None:
    series: dict[str, list[tuple[float, float]]] = {}
    for model, rows in models.items():
        for fc in (False, True):
            held = [row for row in rows if row.fc == fc]
            points = [
                (float(pcn), share(MEASURES[measure](row) for row in held if row.pcn == pcn).value)
                for pcn in sorted({row.pcn for row in held})
            ]
            if points:
                series[f"{model}{', factual passage' if fc else ''}"] = points
    save_lines(file, series, "Correct answers among poisoned passages", "poisoned passages", "share correct")
