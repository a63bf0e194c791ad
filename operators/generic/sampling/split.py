"""Divide rows into named parts, such as training, validation and test data."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

from pydantic import field_validator

from engine.operator import Context, Grouped, InputTypes, Output, Params, Record, Wrong, operator
from operators.draws import draw
from operators.generic.sampling.draw_keys import as_list, missing_fields, strata

_TOLERANCE = 1e-9


class SplitParams(Params):
    """Parameters of split."""

    shares: dict[str, float]
    by: str | list[str] | None = None
    seed: int = 0

    @field_validator("shares")
    @classmethod
    def _names(cls, shares: dict[str, float]) -> dict[str, float]:
        if len(shares) < 2:
            raise ValueError("give at least two parts, such as {train: 0.9, test: 0.1}")
        for name in shares:
            if not name.isidentifier():
                raise ValueError(f"{name!r} cannot name an output; use letters, digits and underscores")
        return shares

    def output_names(self) -> list[str]:
        """The parts."""
        return list(self.shares)

    def problems(self, inputs: InputTypes) -> Iterator[Wrong]:
        """Shares that are not positive or do not add up to 1, and unknown fields."""
        for name, share in self.shares.items():
            if share <= 0:
                yield Wrong(f"shares: {name} is {share:g}, but must be above 0", at=("shares", name))
        total = sum(self.shares.values())
        if abs(total - 1) > _TOLERANCE:
            yield Wrong(f"shares: they add up to {total:.12g}, but must add up to 1", at=("shares",))
        for problem in missing_fields(inputs["rows"], as_list(self.by)):
            yield Wrong(problem, at=("by",))


@operator(outputs={"*": "rows"})
def split(rows: Grouped[Record], ctx: Context, params: SplitParams) -> Iterator[Output]:
    """Divide rows at random into parts with these shares: `shares: {train: 0.8, test: 0.2}` has the outputs `train` and `test`.

    Related rows stay in one part: rows that come from the same source row, such as paraphrases of one question, and equal rows.
    So nothing that a model was trained on is in the test part. Parts have their shares of the rows as closely as groups of
    related rows allow.

    The parts depend on the pipeline's seed and the rows' content, not on their order. When rows are added, almost all others
    stay in their part; only those at the borders may move. With `by`, every stratum (the rows with the same values in these
    fields) is divided in these shares. A group of related rows counts towards the stratum that most of its rows have.

    Metrics: `rows` counts the rows of each part, `groups` its groups of related rows.

    Args:
        shares: the share of each part; together 1.
        by: a field, or several, whose values make strata.
        seed: any whole number, for another division.
    """
    ids = rows.row_ids()
    members: dict[int, list[int]] = defaultdict(list)
    for number, group in enumerate(_related(rows.groups or range(len(rows)), ids)):
        members[group].append(number)
    of_row = strata(rows, as_list(params.by))
    by_stratum: dict[str, list[list[int]]] = defaultdict(list)
    for found in members.values():
        common = Counter(of_row[number] for number in found)
        by_stratum[min(common, key=lambda name: (-common[name], name))].append(found)
    part_of: dict[int, str] = {}
    for name in params.shares:
        ctx.count("rows", name, by=0)
    for stratum, groups in by_stratum.items():
        # Where strata are tiny, a fixed offset would give all of them to the same part.
        offset = draw(ctx.seed, params.seed, "stratum", stratum) if params.by else 0.5
        for found, name in _divided(groups, ids, params.shares, offset, (ctx.seed, params.seed)):
            part_of |= dict.fromkeys(found, name)
            ctx.count("groups", name)
            ctx.count("rows", name, by=len(found))
    _notes(ctx, params.shares, members, part_of, len(rows))
    for number, row in enumerate(rows):
        yield part_of[number], row


def _related(groups: Sequence[int], ids: Sequence[str]) -> list[int]:
    """The number of each row's group, where equal rows of different groups join these."""
    parent = {group: group for group in groups}

    def root(group: int) -> int:
        while parent[group] != group:
            parent[group] = parent[parent[group]]
            group = parent[group]
        return group

    first: dict[str, int] = {}
    for group, each in zip(groups, ids, strict=True):
        parent[root(group)] = root(first.setdefault(each, group))
    return [root(group) for group in groups]


def _divided(
    groups: Sequence[list[int]], ids: Sequence[str], shares: Mapping[str, float], offset: float, seed: tuple[int, int]
) -> Iterator[tuple[list[int], str]]:
    """Groups in random order along a line, cut at the shares."""
    total = sum(map(len, groups))
    borders, end = [], 0.0
    for name, share in shares.items():
        end += share * total
        borders.append((end - _TOLERANCE, name))
    done = 0
    for found in sorted(groups, key=lambda found: draw(*seed, min(ids[number] for number in found))):
        middle = done + offset * len(found)
        yield found, next((name for border, name in borders if middle < border), borders[-1][1])
        done += len(found)


def _notes(
    ctx: Context, shares: Mapping[str, float], members: Mapping[int, list[int]], part_of: Mapping[int, str], total: int
) -> None:
    if not total:
        return
    largest = max(map(len, members.values()))
    name, share = min(shares.items(), key=lambda item: item[1])
    if largest > share * total and largest > 1:
        ctx.note(f"split: a group of {largest} related rows is larger than the share of {name} ({share:g} of {total} rows)")
    for name in shares.keys() - {*part_of.values()}:
        ctx.note(f"split: {name} has no rows, because there are too few: {total}, in {len(members)} groups of related rows")
