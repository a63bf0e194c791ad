"""Build training data that teaches a model to weigh its contexts: good responses, and its own poisoned ones to avoid."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from engine.operator import Context, InputTypes, Lookup, Output, Params, Table, derived, operator
from operators.alignment.ai_feedback_strategy import chosen
from operators.alignment.cells import CellKind, kind_of
from operators.alignment.conclusions import conclusion, normalise
from operators.alignment.paths import BasePrompt, base_prompt
from operators.records import Message, PathResponse, PreferencePair, SFTExample, StrategyChoice


class Example(NamedTuple):
    """A response to learn from and, in a pair, one to avoid."""

    chosen: PathResponse
    rejected: PathResponse | None = None

    @property
    def cell(self) -> tuple[int, bool]:
        """The cell as (pcn, fc): the number of poisoned contexts, and whether there are factual ones."""
        return self.chosen.pcn, self.chosen.fc

    @property
    def kind(self) -> CellKind:
        """The kind of its cell."""
        return kind_of(*self.cell)


class PairsParams(Params):
    """Parameters of build_dpo_pairs."""

    ike_share: Annotated[float, Field(ge=0, lt=1)] = 0.2
    closed_book_share: Annotated[float, Field(ge=0, lt=1)] = 0.1
    balance: Literal["equal", "none"] = "equal"
    prompt: BasePrompt = None

    def problems(self, inputs: InputTypes) -> Iterator[str]:
        """Shares that leave no room for conflicts."""
        shares = self.ike_share + self.closed_book_share
        if shares >= 1:
            yield f"ike_share and closed_book_share leave no room for conflicts: they add up to {shares:g}"


@operator(outputs={"sft": SFTExample, "pairs": PreferencePair})
def build_dpo_pairs(
    responses: Table[PathResponse],
    strategies: Lookup[StrategyChoice],
    ctx: Context,
    params: PairsParams,
    revised: Table[PathResponse] | None = None,
) -> Iterator[Output]:
    """Make SFT rows and preference pairs from the responses of each cell's chosen path.

    The prompt of a row is that of the path `base`, which contains no warning. Its completion (the chosen one in a pair) is a
    correct response of the cell's chosen path, taken from `revised` if that input is given. The rejected completion of a pair
    is a poisoned answer: the policy's own answer to the same item in the same cell, incorrect and concluding with the incorrect
    answer, preferably from the path `base`. Where all contexts are factual (IKE), or there are none, the policy seldom errs;
    there, the item's poisoned answer from another cell is used. Such rows teach the model to keep trusting good contexts and
    its own knowledge.

    No completion to learn concludes with the incorrect answer or equals the rejected completion.

    Metrics: `rows` by output and kind of cell; `dropped` by output and reason; `missing`, the number of IKE and
    closed-book rows that their shares lack.

    Source: Dialectical Alignment (arXiv 2404.00486), which describes SFT and announces pairs; how pairs are built is our
    choice.

    Args:
        ike_share: the share of rows whose contexts are all factual; it is smaller if there are too few.
        closed_book_share: the share of rows without contexts; it is smaller if there are too few.
        balance: `equal` draws the same number of rows from each cell with poisoned contexts: the size of the smallest
            nonempty cell; `none` keeps all rows.
        prompt: a template with {{ question }} and {{ contexts }} that replaces the built-in one.
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
    shares: dict[CellKind, float] = {"ike": params.ike_share, "closed_book": params.closed_book_share}
    for output, examples in (("sft", good), ("pairs", list(_paired(good, responses, ctx)))):
        for example in _mixed(output, examples, shares, params.balance, ctx):
            row, rejected = example
            ctx.count("rows", f"{output}: {example.kind}")
            prompt = base_prompt(row.question, row.contexts, params.prompt)
            choice = choices[example.cell]
            if rejected is None:
                yield output, derived(SFTExample(prompt=prompt, completion=_answer(row)), row, choice)
            else:
                pair = PreferencePair(prompt=prompt, chosen=_answer(row), rejected=_answer(rejected))
                yield output, derived(pair, row, rejected, choice)


def _concludes_wrongly(row: PathResponse) -> bool:
    return conclusion(row.response, row.correct_answer, row.incorrect_answer) == "incorrect"


def _answer(row: PathResponse) -> list[Message]:
    return [Message(role="assistant", content=row.response)]


def _paired(good: Sequence[Example], responses: Iterable[PathResponse], ctx: Context) -> Iterator[Example]:
    """Each example with the policy's best matching poisoned answer; examples without one are dropped."""
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
    """How far another response is from the policy's answer to the same prompt; smaller is better."""
    return (other.pcn, other.fc) != (row.pcn, row.fc), other.path != "base", other.contexts != row.contexts


def _mixed(
    output: str, examples: Sequence[Example], shares: Mapping[CellKind, float], balance: str, ctx: Context
) -> Iterator[Example]:
    """The examples to keep, in order: balanced among conflict cells, with the other kinds in their shares."""
    cells: dict[tuple[int, bool], list[int]] = {}
    others: dict[CellKind, list[int]] = {kind: [] for kind in shares}
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


def amounts(
    rest: int, shares: Mapping[CellKind, float], available: Mapping[CellKind, int] | None = None
) -> dict[CellKind, int]:
    """How many rows of each kind give it its share of all rows, if there are `rest` other rows.

    Args:
        rest: the number of rows of other kinds.
        shares: kind -> its share; the sum is less than 1.
        available: kind -> the largest number of rows. If a kind has too few for its share, the other shares refer to the
            smaller total.
    """
    found: dict[CellKind, int] = {}
    while True:
        left = {kind: each for kind, each in shares.items() if kind not in found}
        whole = (rest + sum(found.values())) / (1 - sum(left.values()))
        wanted = {kind: round(whole * each) for kind, each in left.items()}
        short = {kind: available[kind] for kind, count in wanted.items() if available and available[kind] < count}
        if not short:
            return {kind: (found | wanted)[kind] for kind in shares}
        found |= short
