"""A comparison in words, as tables, as a Markdown file, and as a chart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from engine.comparison.compare import Comparison, MetricValue, Part, Result
from engine.comparison.statistics import FEWEST_CLUSTERS
from registry.counted import counted

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

METHOD = (
    "Differences are between means of corresponding rows, each side minus A. Intervals are 95 % and clustered by source row: "
    "jackknife over source rows (CR3), t-quantiles of their number minus 1."
)


class Table(NamedTuple):
    """A table with its columns."""

    columns: list[str]
    rows: list[list[str]]


def letter(place: int) -> str:
    """The letter that names a side in tables: A for the first one."""
    return _LETTERS[place] if place < len(_LETTERS) else f"side {place + 1}"


def content(found: Comparison) -> Iterator[str | Table]:
    """A comparison as lines of text and tables; a line that begins with `## ` is a heading."""
    for place, side in enumerate(found.sides):
        yield f"{letter(place)}: {side}"
    if found.same:
        yield f"The same version on all sides: {', '.join(found.same)}."
    for part in found.parts:
        yield f"## {part.name}"
        yield "; ".join(f"{letter(place)}: {ref or '-'}" for place, ref in enumerate(part.versions))
        if part.metrics:
            yield _metrics(part, len(found.sides))
        if differing := [each for each in part.results if each.difference.differs]:
            yield _results(differing, found)
        yield from (in_words(each, found) for each in part.results)
        yield from part.notes
    if any(part.results for part in found.parts):
        others = len(found.sides) - 1
        yield METHOD + (f" p is adjusted for {others} comparisons with A by Holm; intervals are not." if others > 1 else "")


def in_words(result: Result, found: Comparison) -> str:
    """What a result shows, and the numbers behind it."""
    what, side = result.difference, letter(found.sides.index(result.side))
    subject = f"{result.field}, {side} against A"
    first, second = what.rows
    rows = counted(first, "row") if first == second else f"{first:,} and {counted(second, 'row')}"
    basis = f"{rows} of {what.clusters:,} source rows" + (
        "" if what.paired else ", which do not correspond, so they are not paired"
    )
    if any(result.left_out):
        basis += (
            f"; {counted(result.left_out[0], 'row')} of A and {result.left_out[1]:,} of {side} lack a counterpart or a value"
        )
    if not what.differs:
        return f"{subject}: the same in all pairs, {what.first:.4g} on average ({basis})."
    if what.low is None or what.high is None or what.detectable is None:
        return f"{subject}: no interval, because there are fewer than {FEWEST_CLUSTERS} source rows ({basis})."
    interval = f"{what.value:+.4g} ({what.low:+.4g} to {what.high:+.4g})"
    if result.shown:
        return f"{subject}: {side} is {'higher' if what.value > 0 else 'lower'}: {interval} ({basis})."
    why = ""
    if what.low > 0 or what.high < 0:
        few = what.p is not None and what.p >= 0.05
        why = (
            " Too few source rows differ for this interval."
            if few
            else " The interval is not adjusted for the number of sides."
        )
    power = (
        f" A difference of {what.detectable:.3g} would have been shown in 4 of 5 such comparisons." if what.detectable else ""
    )
    return f"{subject}: no difference is shown: {interval} ({basis}).{why}{power}"


def markdown(found: Comparison, chart: str | None = None) -> str:
    """A comparison as a Markdown page; `chart` is the name of an image file beside it."""
    parts = ["# Comparison"]
    for each in content(found):
        if isinstance(each, Table):
            lines = [each.columns, ["---"] * len(each.columns), *each.rows]
            parts.append("\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines))
        else:
            parts.append(each)
    parts += [f"![differences]({chart})"] if chart else []
    return "\n\n".join(parts) + "\n"


def save_chart(found: Comparison, file: Path) -> None:
    """Draw the differences with their intervals as a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = [(part, each) for part in found.parts for each in part.results if each.difference.low is not None]
    figure = Figure(figsize=(7.5, max(2.0, 0.9 + 0.4 * len(drawn))), layout="constrained")
    FigureCanvasAgg(figure)  # no window, whatever backend the user has set
    axes = figure.add_subplot()
    axes.axvline(0, color="black", linewidth=0.8)
    for place, (_, each) in enumerate(drawn):
        what = each.difference
        assert what.low is not None
        assert what.high is not None
        around = [[what.value - what.low], [what.high - what.value]]
        axes.errorbar([what.value], [place], xerr=around, marker="o", capsize=3, color="tab:blue" if each.shown else "tab:gray")
    names = [f"{part.name} {each.field}: {letter(found.sides.index(each.side))}" for part, each in drawn]
    axes.set_yticks(range(len(drawn)), names)
    axes.invert_yaxis()
    axes.set_xlabel("difference from A, with 95 % interval (blue: shown)")
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(file, dpi=120, format="png", metadata={"Software": None})


def _metrics(part: Part, sides: int) -> Table:
    rows = [[each.metric, each.slice, *(_value(value) for value in each.values)] for each in part.metrics]
    return Table(["metric", "slice", *map(letter, range(sides))], rows)


def _value(value: MetricValue | None) -> str:
    if value is None:
        return ""
    interval = "" if value.low is None or value.high is None else f" ({value.low:.4g} to {value.high:.4g})"
    return f"{value.value:.6g}{interval}"


def _results(results: Sequence[Result], found: Comparison) -> Table:
    rows = []
    for each in results:
        what, side = each.difference, letter(found.sides.index(each.side))
        interval = "" if what.low is None or what.high is None else f"{what.low:+.4g} to {what.high:+.4g}"
        moved = "" if what.higher is None else f"{what.higher} higher, {what.lower} lower"
        p = "" if each.adjusted is None else f"{each.adjusted:.3g}"
        means: Sequence[str] = [f"{mean:.4g}" for mean in (what.first, what.second)]
        rows.append([each.field, f"{side} - A", *means, f"{what.value:+.4g}", interval, p, moved])
    return Table(["field", "", "A", "other", "difference", "95 % interval", "p", "source rows"], rows)
