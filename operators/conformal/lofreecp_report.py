"""The report of a LofreeCP run: coverage and size by level and method, and coverage of small and of large sets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

from engine.operator import Context, Report, Table, operator
from operators.charts import Band, Bar, save_bars, save_intervals
from operators.conformal.sets import by_level, measures, rounded_up
from operators.conformal.theory import OTHERS, Estimate, Taxonomy, coverage_band, size_strata
from operators.markdown import table
from operators.records import Calibration, PredictionSet, Threshold
from registry.counted import counted

METHODS = {"lofree": "LofreeCP", "frequency": "frequency only", "first_k": "First-K", "logits": "logits (split CP)"}
_SHOWN = {"ecr": "covered (ECR)", "apss": "size (APSS)", "ssm": "worst by size (SSM)", "singletons": "single answer"}
_EXAMPLES = 5

Measured = Mapping[tuple[str, float], Mapping[str, Estimate | float]]


@operator
async def lofreecp_report(
    sets: Table[PredictionSet],
    calibration: Table[Calibration],
    ctx: Context,
    baselines: Table[PredictionSet] | None = None,
) -> AsyncIterator[Report]:
    """Report on prediction sets: each method at each level, reliability, sizes, coverage by size, and examples.

    A method has no sets at an infeasible level; the report says which level is the smallest feasible one.

    Args:
        sets: the sets of the calibrated method, with known answers (the output `sets` of cp_calibrate or of cp_predict).
        calibration: the calibration from which they were made.
        baselines: the sets of other methods for the same questions.
    """
    every = [*sets, *(baselines or ())]
    levels = by_level(every)
    found = {key: measures(each, key[1]) for key, each in levels.items()}
    known = next(iter(calibration))
    parts = [_head(known), _by_level(levels, found, known), _strata(ctx, levels)]
    parts += [_groups(levels, known)] if known.categories is not None else []
    parts += [_thresholds(known), _examples(list(sets))]
    _pictures(ctx, levels, found, known)
    pictures = {
        "reliability.png": "coverage against 1 - alpha",
        "size.png": "size against alpha",
        "strata.png": "coverage by size",
    }
    drawn = [f"![{title}]({file})" for file, title in pictures.items() if (ctx.scratch / file).exists()]
    yield Report(title="LofreeCP prediction sets", text="\n\n".join([*parts, *drawn]), files=ctx.keep(ctx.scratch))


def _head(known: Calibration) -> str:
    source = f"Answers of {known.made.model}, {counted(known.made.samples, 'sample')} per question. " if known.made else ""
    reason = "no accepted answer was sampled" if known.loss == "missed" else "no answer close to an accepted one was sampled"
    interval = f"{known.smallest_alpha_low:.3f} to {known.smallest_alpha_high:.3f}"
    return (
        f"{source}Calibrated on {counted(known.questions, 'question')}. The smallest feasible alpha is "
        f"{rounded_up(known.smallest_alpha)} "
        f"({interval} on another calibration set of this size). Below it, no threshold has the guarantee, because for too many "
        f"questions {reason}."
    )


def _by_level(levels: Mapping[tuple[str, float], Sequence[PredictionSet]], found: Measured, known: Calibration) -> str:
    columns = _SHOWN | ({"risk": "mean loss"} if known.loss == "distance" else {})
    lines: list[list[object]] = []
    for method, alpha in sorted(levels, key=lambda key: (key[1], list(METHODS).index(key[0]) if key[0] in METHODS else 9)):
        each = found[method, alpha]
        shown = [_shown(each.get(name), name) for name in columns]
        lines.append([f"{alpha:g}", METHODS.get(method, method), *shown, f"{each['abstained']:.0%}"])
    return (
        "## Levels\n\n"
        + table(["alpha", "method", *columns.values(), "abstained"], lines)
        + (
            "\n\nA set should contain an accepted answer with probability 1 - alpha or more; smaller sets are more "
            "informative. SSM is the highest miscoverage among groups of at least 20 sets of similar size; ideally it is "
            "alpha."
        )
    )


def _shown(value: Estimate | float | None, name: str) -> str:
    if not isinstance(value, Estimate) or value.value != value.value:
        return "-"
    if name in ("apss", "risk"):
        return f"{value.value:.2f} ({value.low:.2f} to {value.high:.2f})"
    return f"{value.value:.1%} ({value.low:.1%} to {value.high:.1%})"


def _strata(ctx: Context, levels: Mapping[tuple[str, float], Sequence[PredictionSet]]) -> str:
    """Coverage by size at the smallest feasible level, as a table and a chart."""
    ours = {alpha: sets for (method, alpha), sets in levels.items() if method == "lofree"}
    alphas = sorted(alpha for alpha, sets in ours.items() if any(each.covered is not None for each in sets))
    if not alphas:
        return "## Coverage by size\n\nNo level is feasible."
    alpha = alphas[0]
    given = [each for each in ours[alpha] if each.covered is not None]
    strata = size_strata([len(each.prediction) for each in given], [bool(each.covered) for each in given])
    if not strata:
        return f"## Coverage by size (alpha {alpha:g})\n\nThere are fewer than 20 sets, too few to compare sizes."
    names = [f"{each.least}" if each.least == each.most else f"{each.least} to {each.most}" for each in strata]
    bars = [Bar(1 - m.value, 1 - m.high, 1 - m.low) for m in (each.miscoverage for each in strata)]
    save_bars(
        ctx.scratch / "strata.png", names, {"covered": bars}, f"Coverage by size of the set, alpha {alpha:g}", "share covered"
    )
    lines = [
        [name, each.n, f"{bar.value:.1%} ({bar.low:.1%} to {bar.high:.1%})"]
        for name, each, bar in zip(names, strata, bars, strict=True)
    ]
    return f"## Coverage by size (alpha {alpha:g})\n\n" + table(["answers in the set", "sets", "covered"], lines)


def _groups(levels: Mapping[tuple[str, float], Sequence[PredictionSet]], known: Calibration) -> str:
    """Coverage by category, at each level."""
    taxonomy = Taxonomy(frozenset(known.categories or ()))
    lines: list[list[object]] = []
    for alpha in (alpha for method, alpha in levels if method == "lofree"):
        by_category: dict[str, list[PredictionSet]] = {}
        for each in levels["lofree", alpha]:
            by_category.setdefault(taxonomy.category(each.group), []).append(each)
        for category, sets in sorted(by_category.items()):
            found = measures(sets, alpha)
            lines.append([f"{alpha:g}", category, len(sets), *(_shown(found.get(name), name) for name in ("ecr", "apss"))])
    return (
        "## Groups\n\n"
        + table(["alpha", "questions", "sets", "covered (ECR)", "size (APSS)"], lines)
        + f"\n\nEach row has its own guarantee; {OTHERS} combines the groups that are too small for their own row."
    )


def _thresholds(known: Calibration) -> str:
    def line(each: Threshold) -> list[object]:
        value = "infeasible" if each.threshold is None else f"{each.threshold:.4f}"
        return [f"{each.alpha:g}", each.category, each.n, each.unsampled, each.entropy_weight, each.similarity_weight, value]

    columns = ["alpha", "questions", "calibrated on", "true answer never sampled", "lambda 1", "lambda 2", "threshold"]
    return "## Thresholds\n\n" + table(columns, map(line, known.thresholds))


def _examples(sets: Sequence[PredictionSet]) -> str:
    feasible = [each for each in sets if each.covered is not None]
    if not feasible:
        return "## Examples\n\nNo set has a guarantee."
    alpha = min(each.alpha for each in feasible)
    shown = [each for each in feasible if each.alpha == alpha][:_EXAMPLES]
    lines = [[each.question, ", ".join(each.prediction) or "(none)", "yes" if each.covered else "no"] for each in shown]
    return f"## Examples (alpha {alpha:g})\n\n" + table(["question", "prediction set", "covered"], lines)


def _pictures(
    ctx: Context, levels: Mapping[tuple[str, float], Sequence[PredictionSet]], found: Measured, known: Calibration
) -> None:
    def points(method: str, name: str, *, against_coverage: bool) -> list[tuple[float, Bar]]:
        measured = [(alpha, found[each, alpha].get(name)) for each, alpha in sorted(levels) if each == method]
        return [
            (1 - alpha if against_coverage else alpha, Bar(*value))
            for alpha, value in measured
            if isinstance(value, Estimate) and value.value == value.value
        ]

    methods = [name for name in METHODS if any(method == name for method, _ in levels)]
    reliability = {METHODS[name]: each for name in methods if (each := points(name, "ecr", against_coverage=True))}
    sizes = {METHODS[name]: each for name in methods if (each := points(name, "apss", against_coverage=False))}
    if not reliability:
        return
    tested = max(sum(each.covered is not None for each in sets) for sets in levels.values())
    n, ours = len(known.questions), sorted(alpha for method, alpha in levels if method == "lofree")
    bounds = [(1 - alpha, *coverage_band(n, tested, alpha)) for alpha in ours]
    shown = sorted(each for each in bounds if each[0] >= min(x for line in reliability.values() for x, _ in line))
    plain = known.categories is None and known.loss == "missed"
    save_intervals(
        ctx.scratch / "reliability.png",
        reliability,
        "Reliability of prediction sets",
        "1 - alpha (target coverage)",
        "share covered (ECR)",
        band=Band("exact sets, 95%", [each for each in shown if each[2] < 1]) if plain else None,
        diagonal="target",
    )
    save_intervals(ctx.scratch / "size.png", sizes, "Size of prediction sets", "alpha", "mean number of answers (APSS)")
