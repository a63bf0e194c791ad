"""Draw some of the rows."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import Field

from engine.operator import Context, InputTypes, Params, Record, Table, Wrong, derived, operator
from operators.generic.sampling.draw_keys import as_list, draw_keys, missing_fields, strata


class SampleParams(Params):
    """Parameters of sample."""

    n: Annotated[int | None, Field(ge=1)] = None
    share: Annotated[float | None, Field(gt=0, le=1)] = None
    by: str | list[str] | None = None
    seed: int = 0

    def problems(self, inputs: InputTypes) -> Iterator[Wrong]:
        """Both or none of n and share, and unknown fields."""
        if (self.n is None) is (self.share is None):
            both = "give n or share, not both" if self.n is not None else "give n, a number of rows, or share, a part of them"
            yield Wrong(both, at=() if self.n is None else ("share",))
        for problem in missing_fields(inputs["rows"], as_list(self.by)):
            yield Wrong(problem, at=("by",))


@operator(outputs={"out": "rows"})
def sample(rows: Table[Record], ctx: Context, params: SampleParams) -> Iterator[Record]:
    """Draw `n` rows, or a share of the rows, at random and without replacement. They keep their order.

    The draw depends on the pipeline's seed and the rows' content: shuffle the input, and the same rows are drawn. A smaller
    sample is part of a larger one, also in another step; give `seed` for a different draw. With `by`, `n` is the number of rows
    of each stratum, that is, of the rows with the same values in these fields; a share is then the same in all strata, as
    closely as whole rows allow.

    Metrics: `rows` counts drawn rows and others.

    Args:
        n: the number of rows; if there are fewer, all are taken, and the run says so.
        share: the part of the rows, above 0 and up to 1; the number of rows is rounded.
        by: a field, or several, whose values make strata.
        seed: any whole number, for another draw.
    """
    keys = draw_keys(rows.row_ids(), ctx.seed, params.seed)
    members: dict[str, list[int]] = defaultdict(list)
    for number, stratum in enumerate(strata(rows, as_list(params.by))):
        members[stratum].append(number)
    counts = _by_share(members, params.share) if params.share is not None else dict.fromkeys(members, params.n or 0)
    if params.n is not None and (short := {name: len(found) for name, found in members.items() if len(found) < params.n}):
        of = "" if params.by is None else f" of {len(short)} of {len(members)} strata, such as {next(iter(short))}"
        ctx.note(f"sample: all rows{of} are taken, because there are fewer than n = {params.n}")
    chosen = sorted(
        number
        for name, found in members.items()
        for number in sorted(found, key=lambda number: (keys[number], number))[: counts[name]]
    )
    ctx.count("rows", "drawn", by=len(chosen))
    ctx.count("rows", "others", by=len(rows) - len(chosen))
    for number, row in zip(chosen, rows.record.from_table(rows.arrow.take(chosen)) if chosen else (), strict=True):
        yield derived(row, rows.ref(number))


def _by_share(members: Mapping[str, list[int]], share: float) -> dict[str, int]:
    """The number of rows of each stratum: rounded down, and the rest where rounding took the most."""
    exact = {name: share * len(found) for name, found in members.items()}
    counts = {name: math.floor(value + 1e-9) for name, value in exact.items()}
    rest = math.floor(sum(exact.values()) + 0.5) - sum(counts.values())
    for name in sorted(exact, key=lambda name: (counts[name] - exact[name], name))[:rest]:
        counts[name] += 1
    return counts
