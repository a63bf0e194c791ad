"""Find the best path for each kind of conflict: a policy answers along all of them, and a judge says what is correct."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import Annotated, Any, Literal

from pydantic import Field

from engine.llm.chat import ChatModel
from engine.llm.types.errors import RequestError
from engine.operator import Context, Counters, Metric, Record, Table, derived, operator
from operators.alignment.cells import cell_name, cell_of, share
from operators.alignment.judge import CALLS, JudgePrompt, Judging, Outcome, verdict, with_judge
from operators.alignment.paths import PATHS, Turn, follow, used_paths
from operators.intervals import wilson
from operators.records import ConflictCase, PathResponse, StrategyChoice

_PRIOR_KNOWLEDGE = "cot_pk"
"""The path that the paper's rule keeps for cells where poisoned contexts outnumber factual ones."""


def problems(params: Any, types: Mapping[str, type[Record]]) -> list[str]:
    """What is wrong with the choice of paths."""
    known = list(PATHS | params.paths)
    use = known if params.use is None else params.use
    found = [f"use: there is no path {name!r}; there are {', '.join(known)}" for name in use if name not in known]
    if len(set(use)) < len(use):
        found.append("use: a path is named twice")
    if params.rule == "paper" and (_PRIOR_KNOWLEDGE not in use or len(set(use)) == 1):
        found.append(f"rule: paper chooses between {_PRIOR_KNOWLEDGE} and other paths; `use` must name both")
    return found


def most_calls(params: Any) -> dict[str, int]:
    """The most calls a case needs, by role."""
    paths = used_paths(params.paths, params.use)
    policy = {"policy": sum(map(len, paths.values()))}
    if params.judging == "strict":
        return policy
    return policy | {"judge": len(paths) * CALLS * (2 if params.check_order else 1)}


def totals(counts: Counters) -> list[Metric]:
    """`accuracy` by path over all cells, and `order_agreement`, with intervals."""
    sums: Counter[tuple[str, str]] = Counter()
    for (metric, part), value in counts.items():
        if metric in ("judged", "correct"):
            sums[metric, part.split(" ", 2)[2]] += int(value)
    paths = [path for metric, path in sums if metric == "judged"]
    found = [each for path in paths for each in share("accuracy", path, sums["correct", path], sums["judged", path])]
    agree, differ = (counts.get(("order_checks", said), 0) for said in ("agree", "differ"))
    return found + share("order_agreement", "", agree, agree + differ)


@dataclass(frozen=True)
class Measured:
    """How a path did in a cell: `right` of `n` judged responses."""

    path: str
    n: int
    right: int

    @property
    def accuracy(self) -> Fraction:
        """The share, exactly, so that ties are ties; 0 of nothing."""
        return Fraction(self.right, self.n) if self.n else Fraction(0)

    @cached_property
    def interval(self) -> tuple[float, float]:
        """Wilson, 95 %."""
        return wilson(self.right, self.n)


def choose(counts: Counters, params: Any) -> Iterator[StrategyChoice]:
    """The strategies: a row for each cell and path, the chosen path of each cell marked."""
    paths = list(used_paths(params.paths, params.use))
    for cell in sorted((part for metric, part in counts if metric == "cases"), key=cell_of):
        pcn, fc = cell_of(cell)
        cases = int(counts["cases", cell])
        judged = [tuple(int(counts.get((name, f"{cell} {path}"), 0)) for name in ("judged", "correct")) for path in paths]
        measured = [Measured(path, n, right) for path, (n, right) in zip(paths, judged, strict=True)]
        candidates = measured
        if params.rule == "paper":
            outnumbered = pcn * cases > counts.get(("factual_contexts", cell), 0)
            candidates = [each for each in measured if (each.path == _PRIOR_KNOWLEDGE) is outnumbered]
        # The first of the best: ties go to the simpler path.
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
    """What to know of a choice."""
    if ties := [each.path for each in candidates if each is not best and each.n and each.accuracy == best.accuracy]:
        yield f"tie with {', '.join(ties)}"
    if best.n < min_items:
        yield f"too few items: {best.n} < {min_items}"
    if best.n < cases:
        yield f"{cases - best.n} of {cases} cases have no verdict"
    simplest = measured[0]
    if best is not simplest and simplest.n and simplest.interval[1] >= best.interval[0]:
        yield f"not clearly better than {simplest.path} (its interval reaches {simplest.interval[1]:.2f})"
    if (top := max(measured, key=lambda each: each.accuracy)).accuracy > best.accuracy:
        yield f"measured, {top.path} is better ({float(top.accuracy):.2f})"


@lru_cache(maxsize=4)
def chosen(strategies: Table[StrategyChoice]) -> Mapping[tuple[int, bool], StrategyChoice]:
    """(pcn, fc) -> the chosen path's row."""
    return {(each.pcn, each.fc): each for each in strategies if each.chosen}


@operator(
    outputs={"responses": PathResponse, "strategies": StrategyChoice},
    models=["policy", "judge"],
    uses=lambda params: with_judge("policy", params),
    calls=most_calls,
    checks=problems,
    summary=totals,
    closing={"strategies": choose},
    apart=[("policy", "judge")],
)
async def ai_feedback_strategy(
    case: ConflictCase,
    ctx: Context,
    *,
    paths: dict[str, Turn | Annotated[list[Turn], Field(min_length=1)]] = {},  # noqa: B006  (pydantic copies it)
    use: Annotated[list[str], Field(min_length=1)] | None = None,
    judging: Judging = "model",
    judge_prompt: JudgePrompt = None,
    check_order: Annotated[float, Field(ge=0, le=1)] = 0.1,
    rule: Literal["measured", "paper"] = "measured",
    min_items: Annotated[int, Field(ge=1)] = 10,
) -> AsyncIterator[tuple[str, PathResponse]]:
    """Let a policy answer along several paths, have a judge say which responses are correct, and choose a path for each cell.

    Paths are ways of prompting: `base` (contexts and question), `tips` (warns that contexts may be wrong), `base_cot` (step by
    step), `cot_nopk` (the steps are spelled out), `cot_pk` (the policy first says what it knows itself); the policy answers
    at the case's temperature. The judge sees the correct and the incorrect answer in random order, the same for all paths
    of a case. A response that max_tokens cut off, or that has no verdict, is left out with a reason in `rejects`; it is
    never counted as incorrect. A row that leads to nothing because requests failed is rejected itself.

    `strategies` has for each cell (poisoned contexts, factual ones or none) and path the accuracy with its interval; the most
    accurate path is chosen, of equal ones the simpler. Notes say where a choice rests on little.

    Metrics: `cases` and `factual_contexts` by cell, `judged` and `correct` by cell and path, `verdicts`; `accuracy` by path
    over all cells and `order_agreement`, each with `_ci_low` and `_ci_high` (95 %, Wilson); `order_checks`; `turns_cut_off`
    counts responses of which max_tokens cut off an earlier turn.

    Source: Dialectical Alignment (arXiv 2404.00486).

    Args:
        paths: further paths by name, or others in place of the built-in ones: a template with {{ question }} and
            {{ contexts }} (numbered lines; empty when there are none), or a list of them, one for each turn.
        use: which paths, simplest first; all by default, those of `paths` last.
        judging: `model` asks the judge (best at temperature 0); `strict` goes by what the response concludes with.
        judge_prompt: a template with {{ question }}, {{ response }}, {{ first }} and {{ second }} for the judge.
        check_order: the share of verdicts that are asked for again with the two answers in the other order.
        rule: `measured` chooses the most accurate path; `paper` takes `cot_pk` where poisoned contexts outnumber factual
            ones, and the most accurate of the other paths elsewhere.
        min_items: a choice from fewer responses says so.
    """
    policy, judge = ctx.models["policy"], ctx.models["judge"] if judging == "model" else None
    swapped = ctx.random.random() < 0.5  # once a case: paths that give the same response get the same verdict
    cell = cell_name(case.pcn, case.fc)
    ctx.count("cases", cell)
    ctx.count("factual_contexts", cell, by=len(case.contexts) - case.pcn)
    failed: RequestError | None = None
    led = False
    for path, turns in used_paths(paths, use).items():
        twice = ctx.random.random() < check_order
        try:
            *before, last = await follow(policy, turns, case.question, case.contexts, temperature=case.temperature)
            if any(answer.truncated for answer in before):
                ctx.count("turns_cut_off", path)
            if last.truncated:
                ctx.reject(f"{path}: the response was cut off at max_tokens={policy.spec.max_tokens}")
                continue
            response = last.text.strip()
            outcome, said = await verdict(case, response, judge, swapped=swapped, prompt=judge_prompt)
        except RequestError as error:
            ctx.reject(f"{path}: {error}")
            failed = error if error.completion is None else failed
            continue
        if twice and judge is not None:
            ctx.count("order_checks", await _again(case, response, judge, outcome, not swapped, judge_prompt))
        led = True
        ctx.count("verdicts", outcome)
        ctx.count("judged", f"{cell} {path}")
        ctx.count("correct", f"{cell} {path}", by=outcome == "correct")
        record = PathResponse(**case.model_dump(), path=path, response=response, correct=outcome == "correct")
        yield "responses", derived(record, *before, last, *said)
    if failed is not None and not led:
        raise failed  # the row counts for max_reject_ratio, so that an outage fails the step


async def _again(
    case: ConflictCase, response: str, judge: ChatModel, outcome: Outcome, swapped: bool, prompt: str | None
) -> Literal["agree", "differ", "no verdict"]:
    """Whether the judge says the same when it is shown the answers in the other order."""
    try:
        other, _ = await verdict(case, response, judge, swapped=swapped, prompt=prompt)
    except RequestError:
        return "no verdict"
    return "agree" if other == outcome else "differ"
