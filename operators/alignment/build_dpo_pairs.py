"""Build what teaches a model to weigh its contexts: good responses of the chosen paths, against its own poisoned ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from engine.operator import Context, Record, Table, derived, operator
from operators.alignment.ai_feedback_strategy import chosen
from operators.alignment.cells import Kind, kind_of
from operators.alignment.conclusions import conclusion, normalise
from operators.alignment.paths import Turn, base_prompt
from operators.records import Message, PathResponse, PreferencePair, SFTExample, StrategyChoice


class Example(NamedTuple):
    """A response to learn and, for a pair, one to unlearn."""

    chosen: PathResponse
    rejected: PathResponse | None = None

    @property
    def cell(self) -> tuple[int, bool]:
        """(pcn, fc)."""
        return self.chosen.pcn, self.chosen.fc

    @property
    def kind(self) -> Kind:
        """What its cell is for."""
        return kind_of(*self.cell)


def problems(params: Any, types: Mapping[str, type[Record]]) -> list[str]:
    """What is wrong with the shares."""
    shares = params.ike_share + params.closed_book_share
    return [] if shares < 1 else [f"ike_share and closed_book_share leave no room for conflicts: together they are {shares:g}"]


@operator(outputs={"sft": SFTExample, "pairs": PreferencePair}, checks=problems, aside=["strategies"])
def build_dpo_pairs(
    responses: Table[PathResponse],
    strategies: Table[StrategyChoice],
    ctx: Context,
    revised: Table[PathResponse] | None = None,
    *,
    ike_share: Annotated[float, Field(ge=0, lt=1)] = 0.2,
    closed_book_share: Annotated[float, Field(ge=0, lt=1)] = 0.1,
    balance: Literal["equal", "none"] = "equal",
    prompt: Turn | None = None,
) -> Iterator[tuple[str, Record]]:
    """Make SFT rows and preference pairs from the responses of each cell's chosen path.

    A row's prompt is that of the path `base`, which does not warn of anything. Its completion (in a pair: the chosen one) is
    a correct response of the cell's chosen path, from `revised` where that is given. A pair's rejected completion is the
    policy's own answer to the same item in the same cell that is not correct and concludes with the incorrect answer, best
    of the path `base`. With factual contexts only (IKE), and without contexts, the policy seldom errs: there an item's
    poisoned answer in another cell serves. Such rows stay in, so that the model goes on to trust good contexts and itself.

    No completion to learn concludes with the incorrect answer, and none equals the rejected one.

    Metrics: `rows` by output and kind of cell, `dropped` by output and reason, `missing` rows where IKE or closed-book rows
    did not suffice for their share.

    Source: Dialectical Alignment (arXiv 2404.00486), which describes SFT and promises pairs; how they are made is ours.

    Args:
        ike_share: the share of all rows whose contexts are factual only; less where there are not enough.
        closed_book_share: the share of all rows without contexts; less where there are not enough.
        balance: `equal` draws the same number of rows from each cell with poisoned contexts, as many as the smallest one
            has that has any; `none` keeps them all.
        prompt: a template with {{ question }} and {{ contexts }} to use in place of the built-in one.
    """
    choices = chosen(strategies)
    good = []
    for row in responses if revised is None else revised:
        choice = choices.get((row.pcn, row.fc))
        if row.correct and choice is not None and choice.path == row.path:
            if _concludes_wrongly(row):
                ctx.count("dropped", "concludes with the incorrect answer")
                continue
            good.append(Example(row))
    shares: dict[Kind, float] = {"ike": ike_share, "closed_book": closed_book_share}
    for output, examples in (("sft", good), ("pairs", list(_paired(good, responses, ctx)))):
        for example in _mixed(output, examples, shares, balance, ctx):
            row, rejected = example
            ctx.count("rows", f"{output}: {example.kind}")
            asked = base_prompt(row.question, row.contexts, prompt)
            choice = choices[example.cell]
            if rejected is None:
                yield output, derived(SFTExample(prompt=asked, completion=_answer(row)), row, choice)
            else:
                pair = PreferencePair(prompt=asked, chosen=_answer(row), rejected=_answer(rejected))
                yield output, derived(pair, row, rejected, choice)


def _concludes_wrongly(row: PathResponse) -> bool:
    return conclusion(row.response, row.correct_answer, row.incorrect_answer) == "incorrect"


def _answer(row: PathResponse) -> list[Message]:
    return [Message(role="assistant", content=row.response)]


def _paired(good: Sequence[Example], responses: Iterable[PathResponse], ctx: Context) -> Iterator[Example]:
    """Each example with the policy's poisoned answer that fits it best; those without one are dropped."""
    poisoned: dict[tuple[str | None, ...], list[PathResponse]] = {}
    for row in responses:
        if not row.correct and _concludes_wrongly(row):
            poisoned.setdefault(_item(row), []).append(row)
    for example in good:
        row = example.chosen
        found = [
            other
            for other in poisoned.get(_item(row), ())
            if example.kind != "conflict" or (other.pcn, other.fc) == example.cell
        ]
        fitting = [other for other in found if normalise(other.response) != normalise(row.response)]
        if not fitting:
            ctx.count("dropped", "pairs: equals the rejected answer" if found else "pairs: the policy has no poisoned answer")
            continue
        yield Example(row, min(fitting, key=partial(_distance, row)))


def _item(row: PathResponse) -> tuple[str | None, ...]:
    return row.source, row.id, row.question


def _distance(row: PathResponse, other: PathResponse) -> tuple[bool, ...]:
    """How well another response stands for the policy's answer to the same prompt; the first of equal ones is taken."""
    return (other.pcn, other.fc) != (row.pcn, row.fc), other.path != "base", other.contexts != row.contexts


def _mixed(
    output: str, examples: Sequence[Example], shares: Mapping[Kind, float], balance: str, ctx: Context
) -> Iterator[Example]:
    """The examples that are kept, in order: conflict cells balanced, the other kinds in their shares."""
    cells: dict[tuple[int, bool], list[int]] = {}
    others: dict[Kind, list[int]] = {kind: [] for kind in shares}
    for place, example in enumerate(examples):
        (cells.setdefault(example.cell, []) if example.kind == "conflict" else others[example.kind]).append(place)
    smallest = min(map(len, cells.values()), default=0)
    kept: set[int] = set()
    for cell in sorted(cells):
        kept.update(ctx.random.sample(cells[cell], smallest if balance == "equal" else len(cells[cell])))
    if dropped := sum(map(len, cells.values())) - len(kept):
        ctx.count("dropped", f"{output}: beyond the smallest cell", by=dropped)
    wanted = amounts(len(kept), shares)
    possible = amounts(len(kept), shares, {kind: len(places) for kind, places in others.items()})
    for kind, places in others.items():
        if len(places) < wanted[kind]:
            ctx.count("missing", f"{output}: {kind}", by=wanted[kind] - len(places))
        if spare := len(places) - possible[kind]:
            ctx.count("dropped", f"{output}: beyond the share of {kind}", by=spare)
        kept.update(ctx.random.sample(places, possible[kind]))
    return (example for place, example in enumerate(examples) if place in kept)


def amounts(rest: int, shares: Mapping[Kind, float], available: Mapping[Kind, int] | None = None) -> dict[Kind, int]:
    """How many rows of each kind make up its share of all rows, when there are `rest` others.

    Args:
        rest: rows of other kinds.
        shares: kind -> its share, in sum less than 1.
        available: kind -> at most so many. Where that is less than its share, the other kinds' shares are of the smaller
            whole.
    """
    found: dict[Kind, int] = {}
    while True:
        left = {kind: each for kind, each in shares.items() if kind not in found}
        whole = (rest + sum(found.values())) / (1 - sum(left.values()))
        wanted = {kind: round(whole * each) for kind, each in left.items()}
        short = {kind: available[kind] for kind, count in wanted.items() if available and available[kind] < count}
        if not short:
            return {kind: (found | wanted)[kind] for kind in shares}
        found |= short
