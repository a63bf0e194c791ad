"""Splits questions into three sides (tune, calibrate, evaluate); rows with the same origin stay on the same side."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

from operators.conformal.equivalence import same_question
from operators.draws import draw
from operators.ids import same_id
from operators.records import SampledAnswers

Side = Literal["tune", "calibrate", "evaluate"]
SIDES: tuple[Side, ...] = ("tune", "calibrate", "evaluate")


class Shares(BaseModel):
    """The share of questions on each side. The hash of a question decides its side, so adding one moves no other."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    tune: float = Field(default=0.2, ge=0, lt=1)
    calibrate: float = Field(default=0.4, gt=0, le=1)
    evaluate: float = Field(default=0.4, ge=0, lt=1)

    @model_validator(mode="after")
    def _whole(self) -> Shares:
        if abs(self.tune + self.calibrate + self.evaluate - 1) > 1e-9:
            raise ValueError("tune, calibrate and evaluate must add up to 1")
        return self


class Split(NamedTuple):
    """The rows on each side, one of each group, and the number of rows that were left out as paraphrases."""

    rows: dict[Side, list[int]]
    paraphrases: int


def split(rows: Sequence[SampledAnswers], groups: Sequence[int], shares: Shares, seed: int) -> Split:
    """Assign questions to sides.

    Rows are in the same group if they come from the same source row (`groups`), have the same id, or ask the same question. One
    row of each group is drawn: rows that depend on each other are not exchangeable, but groups are (Dunn, Wasserman and Ramdas,
    arXiv 1809.07441, the method of subsampling once).
    """
    by_group: defaultdict[int, list[int]] = defaultdict(list)
    for row, group in enumerate(_joined(rows, groups)):
        by_group[group].append(row)
    sides: dict[Side, list[int]] = {side: [] for side in SIDES}
    for members in by_group.values():
        name = min(rows[row].id or f"? {same_question(rows[row].question)}" for row in members)
        drawn = min(members, key=lambda row: draw(seed, "member", rows[row].question))
        place = draw(seed, "side", name)
        side: Side = "tune" if place < shares.tune else "calibrate" if place < shares.tune + shares.calibrate else "evaluate"
        sides[side].append(drawn)
    return Split({side: sorted(drawn) for side, drawn in sides.items()}, len(rows) - len(by_group))


def _joined(rows: Sequence[SampledAnswers], groups: Sequence[int]) -> list[int]:
    """The group of each row, named by the number of the group's first row."""
    leader = list(range(len(rows)))

    def find(row: int) -> int:
        while leader[row] != row:
            leader[row] = leader[leader[row]]
            row = leader[row]
        return row

    first_with: dict[tuple[str, object], int] = {}
    for number, row in enumerate(rows):
        names = [("text", same_question(row.question)), ("id", same_id(row.id) if row.id else None)] + (
            [("seed", groups[number])] if groups else []
        )
        for name in names:
            if name[1] is not None:
                one, other = sorted((find(first_with.setdefault(name, number)), find(number)))
                leader[other] = one
    return [find(number) for number in range(len(rows))]


def digest(question: str) -> str:
    """The digest that identifies a question in a calibration."""
    return hashlib.sha256(same_question(question).encode()).hexdigest()[:16]
