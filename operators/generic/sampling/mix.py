"""Mix the rows of several inputs in given proportions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Annotated

from pydantic import Field

from engine.operator import (
    Context,
    InputTypes,
    OutputTypes,
    Params,
    Record,
    RowRef,
    StepError,
    Table,
    Wrong,
    derived,
    did_you_mean,
    operator,
)
from operators.draws import draw
from operators.generic.sampling.common_type import NoCommonTypeError, common_type
from operators.generic.sampling.draw_keys import draw_keys
from registry.counted import counted


class MixParams(Params):
    """Parameters of mix."""

    weights: dict[str, float]
    n: Annotated[int | None, Field(ge=1)] = None
    seed: int = 0

    def problems(self, inputs: InputTypes) -> Iterator[Wrong]:
        """Weights that are negative, all 0, missing or of no input, and inputs whose rows have no type in common."""
        for name, weight in self.weights.items():
            if name not in inputs:
                yield Wrong(f"weights: there is no input {name!r}; {did_you_mean(name, inputs)}", at=("weights", name))
            elif weight < 0:
                yield Wrong(f"weights: {name} is {weight:g}, but must be 0 or more", at=("weights", name))
        if absent := [name for name in inputs if name not in self.weights]:
            yield Wrong(f"weights: the input {absent[0]!r} has no weight; 0 leaves its rows out", at=("weights",))
        elif not any(self.weights.values()):
            yield Wrong("weights: all are 0, so there is nothing to mix", at=("weights",))
        try:
            common_type(inputs)
        except NoCommonTypeError as error:
            yield Wrong(f"the inputs have different types: {error}; change one with `map`")

    def outputs(self, inputs: InputTypes) -> OutputTypes:
        """What the rows of the inputs have in common."""
        return {"out": common_type(inputs)}


@operator(outputs=Record)
def mix(tables: Mapping[str, Table[Record]], ctx: Context, params: MixParams) -> Iterator[Record]:
    """Mix the rows of several inputs in given proportions, in random order.

        op: mix
        in: {maths: a, chat: b}
        with: {weights: {maths: 2, chat: 1}}

    Two of three rows are maths here. There are as many rows as the proportions allow without repeating one, or `n`. Where `n`
    needs more rows of an input than it has, its rows are repeated, each the same number of times, give or take one; the run
    says so. Which rows are taken, and their order, depends on the pipeline's seed and the rows' content.

    The inputs have the same fields. A value may be null where it may be null in one of them. A field that may be null may be
    missing in some.

    Metrics: `rows` counts the rows of each input in the mix, `repeated` those among them that are repetitions.

    Args:
        weights: the weight of each input; 0 leaves its rows out.
        n: the number of rows.
        seed: any whole number, for another mix.
    """
    sizes = {name: len(table) for name, table in tables.items()}
    counts = _counts(sizes, {name: Fraction(str(params.weights[name])) for name in tables}, params.n)
    taken: list[tuple[float, RowRef]] = []
    for name, count in counts.items():
        ctx.count("rows", name, by=count)
        if not count:
            if params.weights[name]:
                has = counted(sizes[name], "row")
                ctx.note(f"mix: of {has} of {name!r} none is taken, because there are too few rows for its weight")
            continue
        if not sizes[name]:
            raise StepError(f"mix: n is {params.n}, of which {count} should come from {name!r}, which has no rows")
        if repeated := max(0, count - sizes[name]):
            ctx.count("repeated", name, by=repeated)
            ctx.note(f"mix: {name!r} has {counted(sizes[name], 'row')}, and {count} are needed: {repeated} are repetitions")
        keys = draw_keys(tables[name].row_ids(), ctx.seed, params.seed, name)
        order = sorted(range(sizes[name]), key=lambda number: (keys[number], number))
        for place in range(count):
            time, number = divmod(place, sizes[name])
            number = order[number]
            taken.append((draw("place", repr(keys[number]), name, time), RowRef(name, number)))
    record = common_type({name: table.record for name, table in tables.items()})
    rows = {name: list(record.from_table(record.conform(table.arrow))) for name, table in tables.items() if counts[name]}
    for _, ref in sorted(taken):
        yield derived(rows[ref.port][ref.row], ref)


def _counts(sizes: Mapping[str, int], weights: Mapping[str, Fraction], n: int | None) -> dict[str, int]:
    """The number of rows of each input: rounded down, and the remainder goes to those that lost most by rounding."""
    total = sum(weights.values())
    if n is None:
        n = math.floor(min(sizes[name] * total / weight for name, weight in weights.items() if weight))
    exact = {name: n * weight / total for name, weight in weights.items()}
    counts = {name: math.floor(value) for name, value in exact.items()}
    for name in sorted(exact, key=lambda name: (counts[name] - exact[name], name))[: n - sum(counts.values())]:
        counts[name] += 1
    return counts
