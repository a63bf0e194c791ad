"""Find the best path for each kind of conflict: a policy answers along every path, and a judge decides what is correct."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from engine.operator import (
    ChatModel,
    Context,
    Counters,
    InputTypes,
    Metric,
    Output,
    RequestError,
    Table,
    derived,
    operator,
)
from operators.alignment.cells import cell_name, cell_of
from operators.alignment.judge import CALLS, GivenAnswer, JudgedParams, verdict
from operators.alignment.paths import PATHS, Turn, follow, used_paths
from operators.intervals import wilson
from operators.records import ConflictCase, PathResponse, StrategyChoice
from operators.shares import Share

_PRIOR_KNOWLEDGE = "cot_pk"
"""The path that the paper's rule uses where poisoned contexts outnumber factual ones, and only there."""


class StrategyParams(JudgedParams):
    """Parameters of ai_feedback_strategy."""

    answering: ClassVar[str] = "policy"

    paths: dict[str, Turn | Annotated[list[Turn], Field(min_length=1)]] = {}
    use: Annotated[list[str], Field(min_length=1)] | None = None
    check_order: Annotated[float, Field(ge=0, le=1)] = 0.1
    rule: Literal["measured", "paper"] = "measured"
    min_items: Annotated[int, Field(ge=1)] = 10

    @property
    def used(self) -> dict[str, tuple[str, ...]]:
        """The turns of the paths in use, simplest first."""
        return used_paths(self.paths, self.use)

    def calls(self) -> dict[str, int]:
        """Every turn of each path, and a verdict for each path; twice that many verdicts if some are checked."""
        policy = {"policy": sum(map(len, self.used.values()))}
        if self.judging == "strict":
            return policy
        return policy | {"judge": len(self.used) * CALLS * (2 if self.check_order else 1)}

    def problems(self, inputs: InputTypes) -> Iterator[str]:
        """Unknown and repeated paths, and missing ones that the rule needs."""
        known = list(PATHS | self.paths)
        use = known if self.use is None else self.use
        for name in use:
            if name not in known:
                yield f"use: unknown path {name!r}; known: {', '.join(known)}"
        if len(set(use)) < len(use):
            yield "use: a path is repeated"
        if self.rule == "paper" and (_PRIOR_KNOWLEDGE not in use or len(set(use)) == 1):
            yield f"rule: paper needs {_PRIOR_KNOWLEDGE} and at least one other path in `use`"


@dataclass(frozen=True)
class Measured:
    """The result of a path in a cell: `right` of `n` judged responses."""

    path: str
    n: int
    right: int

    @property
    def accuracy(self) -> Fraction:
        """The exact share, so that ties are found; 0 without responses."""
        return Fraction(self.right, self.n) if self.n else Fraction(0)

    @cached_property
    def interval(self) -> tuple[float, float]:
        """The 95% Wilson interval of the accuracy."""
        return wilson(self.right, self.n)


def _totals(counts: Counters) -> Iterator[Metric]:
    """`accuracy` by path over all cells, and `order_agreement`, with intervals."""
    sums: Counter[tuple[str, str]] = Counter()
    for (metric, part), value in counts.items():
        if metric in ("judged", "correct"):
            sums[metric, part.split(" ", 2)[2]] += int(value)
    for path in [path for metric, path in sums if metric == "judged"]:
        yield from Share.of(sums["correct", path], sums["judged", path]).metrics("accuracy", path)
    agree, differ = (counts.get(("order_checks", result), 0) for result in ("agree", "differ"))
    yield from Share.of(agree, agree + differ).metrics("order_agreement")


def _strategies(counts: Counters, params: StrategyParams) -> Iterator[StrategyChoice]:
    """A row for each cell and path; the best path of each cell is marked as chosen."""
    paths = list(params.used)
    for cell in sorted((part for metric, part in counts if metric == "cases"), key=cell_of):
        pcn, fc = cell_of(cell)
        cases = int(counts["cases", cell])
        judged = [tuple(int(counts.get((name, f"{cell} {path}"), 0)) for name in ("judged", "correct")) for path in paths]
        measured = [Measured(path, n, right) for path, (n, right) in zip(paths, judged, strict=True)]
        candidates = measured
        if params.rule == "paper":
            outnumbered = pcn * cases > counts.get(("factual_contexts", cell), 0)
            candidates = [each for each in measured if (each.path == _PRIOR_KNOWLEDGE) is outnumbered]
        # `max` returns the first of several, so ties go to the simpler path.
        best = max((each for each in candidates if each.n), key=lambda each: each.accuracy, default=None)
        for each in measured:
            note = None if each.n else "no response was judged"
            if each is best:
                note = "; ".join(_notes(best, measured, candidates, cases, params.min_items)) or None
            low, high = each.interval
            yield StrategyChoice(
                pcn=pcn,
                fc=fc,
                path=each.path,
                n=each.n,
                accuracy=float(each.accuracy),
                ci_low=low,
                ci_high=high,
                chosen=each is best,
                note=note,
            )


def _notes(
    best: Measured, measured: Sequence[Measured], candidates: Sequence[Measured], cases: int, min_items: int
) -> Iterator[str]:
    """Reasons to trust a choice less."""
    if ties := [each.path for each in candidates if each is not best and each.n and each.accuracy == best.accuracy]:
        yield f"tie with {', '.join(ties)}"
    if best.n < min_items:
        yield f"too few items: {best.n}, fewer than min_items={min_items}"
    if best.n < cases:
        yield f"{cases - best.n} of {cases} cases have no verdict"
    simplest = measured[0]
    if best is not simplest and simplest.n and simplest.interval[1] >= best.interval[0]:
        yield f"not clearly better than {simplest.path} (its interval reaches {simplest.interval[1]:.2f})"
    if (top := max(measured, key=lambda each: each.accuracy)).accuracy > best.accuracy:
        yield f"{top.path} measured better ({float(top.accuracy):.2f})"


@lru_cache(maxsize=4)
def chosen(strategies: Table[StrategyChoice]) -> Mapping[tuple[int, bool], StrategyChoice]:
    """(pcn, fc) -> the row of the chosen path."""
    return {(each.pcn, each.fc): each for each in strategies if each.chosen}


@operator(outputs={"responses": PathResponse, "strategies": StrategyChoice}, distinct=[("policy", "judge")])
async def ai_feedback_strategy(
    case: ConflictCase, ctx: Context, policy: ChatModel, judge: ChatModel | None, params: StrategyParams
) -> AsyncIterator[Output]:
    """Try several paths on a policy, have a judge decide which responses are correct, and choose the best path for each cell.

    A path is a way of prompting: `base` (contexts and question), `tips` (warns that contexts may be wrong), `base_cot` (step by
    step), `cot_nopk` (spells out the steps), `cot_pk` (the policy first states its own knowledge). The policy answers at the
    case's temperature. The judge sees the correct and the incorrect answer in random order, which is the same for all
    paths of a case. A response that was cut off at max_tokens, or has no verdict, is left out with a reason in `rejects`; it
    never counts as incorrect. A row without any response because requests failed is rejected as a whole.

    `strategies` contains the accuracy, with its interval, for each path and cell (number of poisoned contexts; with or without
    factual ones). The most accurate path is chosen, or the simplest of several. `note` marks choices with weak support.

    Metrics: `cases` and `factual_contexts` by cell; `judged` and `correct` by cell and path; `verdicts`; `accuracy` by path
    over all cells and `order_agreement`, each with `_ci_low` and `_ci_high` (95%, Wilson); `order_checks`; `turns_cut_off`
    counts responses with an earlier turn that was cut off at max_tokens.

    Source: Dialectical Alignment (arXiv 2404.00486).

    Args:
        paths: more paths by name, or replacements of built-in ones: a template with {{ question }} and {{ contexts }}
            (numbered lines; empty without contexts), or a list of templates, one for each turn.
        use: the paths to use, simplest first; by default all, those of `paths` last.
        judging: `model` asks the judge (best at temperature 0); `strict` compares the response's conclusion with the answers.
        judge_prompt: a template with {{ question }}, {{ response }}, {{ first }} and {{ second }} for the judge.
        check_order: the share of verdicts to request again with the two answers in the other order.
        rule: `measured` chooses the most accurate path; `paper` chooses `cot_pk` where poisoned contexts outnumber factual
            ones, and the most accurate other path elsewhere.
        min_items: `note` marks a choice based on fewer responses.
    """
    swapped = ctx.random.random() < 0.5  # once for each case: paths with the same response get the same verdict
    cell = cell_name(case.pcn, case.fc)
    ctx.count("cases", cell)
    ctx.count("factual_contexts", cell, by=len(case.contexts) - case.pcn)
    failed: RequestError | None = None
    produced = False
    for path, turns in params.used.items():
        twice = ctx.random.random() < params.check_order
        try:
            *before, last = await follow(policy, turns, case.question, case.contexts, temperature=case.temperature)
            if any(answer.truncated for answer in before):
                ctx.count("turns_cut_off", path)
            if last.truncated:
                ctx.reject(f"{path}: the response was {policy.cut_off(last)}")
                continue
            response = last.text.strip()
            outcome, judgements = await verdict(case, response, judge, swapped=swapped, prompt=params.judge_prompt)
        except RequestError as error:
            ctx.reject(f"{path}: {error}")
            failed = error if error.completion is None else failed
            continue
        if twice and judge is not None:
            ctx.count("order_checks", await _again(case, response, judge, outcome, not swapped, params.judge_prompt))
        produced = True
        ctx.count("verdicts", outcome)
        ctx.count("judged", f"{cell} {path}")
        ctx.count("correct", f"{cell} {path}", by=outcome == "correct")
        record = PathResponse(**case.model_dump(), path=path, response=response, correct=outcome == "correct")
        yield "responses", derived(record, *before, last, *judgements)
    if failed is not None and not produced:
        raise failed  # the row counts towards max_reject_ratio, so that an outage fails the step


async def _again(
    case: ConflictCase, response: str, judge: ChatModel, outcome: GivenAnswer, swapped: bool, prompt: str | None
) -> Literal["agree", "differ", "no verdict"]:
    """Whether the judge's verdict is the same with the answers in the other order."""
    try:
        other, _ = await verdict(case, response, judge, swapped=swapped, prompt=prompt)
    except RequestError:
        return "no verdict"
    return "agree" if other == outcome else "differ"


@ai_feedback_strategy.finish
def choose(counts: Counters, params: StrategyParams) -> Iterator[Metric | tuple[Literal["strategies"], StrategyChoice]]:
    """The metrics over all cells, and the rows of `strategies`."""
    yield from _totals(counts)
    for strategy in _strategies(counts, params):
        yield "strategies", strategy
