"""Questions on three sides: to tune on, to calibrate on, to evaluate on; what comes from one seed stays on one side."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

from operators.conformal.equivalence import same_question
from operators.ids import same_id
from operators.records import SampledAnswers

Side = Literal["tune", "calibrate", "evaluate"]
SIDES: tuple[Side, ...] = ("tune", "calibrate", "evaluate")


class Shares(BaseModel):
    """The shares of the questions; they are drawn by a hash of each question, so that a new one moves no other."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    tune: float = Field(default=0.2, ge=0, lt=1)
    calibrate: float = Field(default=0.4, gt=0, le=1)
    evaluate: float = Field(default=0.4, ge=0, lt=1)

    @model_validator(mode="after")
    def _whole(self) -> Shares:
        if abs(self.tune + self.calibrate + self.evaluate - 1) > 1e-9:
            raise ValueError("tune, calibrate and evaluate are shares that add up to 1")
        return self


class Split(NamedTuple):
    """The rows of each side, one of each family, and how many others their families have."""

    rows: dict[Side, list[int]]
    paraphrases: int


def split(rows: Sequence[SampledAnswers], families: Sequence[int], shares: Shares, seed: int) -> Split:
    """Draw the sides.

    Rows are of one family when they come from one row of a source (`families`), have the same id, or ask the same question.
    Of each family one row is drawn: rows that depend on each other are not exchangeable, families are (Dunn, Wasserman and
    Ramdas, arXiv 1809.07441, the method of subsampling once).
    """
    by_family: defaultdict[int, list[int]] = defaultdict(list)
    for row, family in enumerate(_joined(rows, families)):
        by_family[family].append(row)
    sides: dict[Side, list[int]] = {side: [] for side in SIDES}
    for members in by_family.values():
        name = min(rows[row].id or f"? {same_question(rows[row].question)}" for row in members)
        drawn = min(members, key=lambda row: _draw(seed, "member", rows[row].question))
        place = _draw(seed, "side", name)
        side: Side = "tune" if place < shares.tune else "calibrate" if place < shares.tune + shares.calibrate else "evaluate"
        sides[side].append(drawn)
    return Split({side: sorted(drawn) for side, drawn in sides.items()}, len(rows) - len(by_family))


def _joined(rows: Sequence[SampledAnswers], families: Sequence[int]) -> list[int]:
    """Each row's family: the number of its first row."""
    leader = list(range(len(rows)))

    def find(row: int) -> int:
        while leader[row] != row:
            leader[row] = leader[leader[row]]
            row = leader[row]
        return row

    met: dict[tuple[str, object], int] = {}
    for number, row in enumerate(rows):
        names = [("text", same_question(row.question)), ("id", same_id(row.id) if row.id else None)] + (
            [("seed", families[number])] if families else []
        )
        for name in names:
            if name[1] is not None:
                one, other = sorted((find(met.setdefault(name, number)), find(number)))
                leader[other] = one
    return [find(number) for number in range(len(rows))]


def _draw(*parts: object) -> float:
    """A number in [0, 1) that depends on nothing but the parts."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def digest(question: str) -> str:
    """What a question is known by in a calibration."""
    return hashlib.sha256(same_question(question).encode()).hexdigest()[:16]
