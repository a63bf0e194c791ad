"""Whether samples were made like those of a calibration; otherwise its guarantee does not hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from engine.operator import Reject
from operators.records import SampledAnswers, Sampling

Part = Literal["model", "prompt", "answer_pattern", "sampling", "samples", "encoder"]

_BY_ITSELF = 0.001
"""A probability; events below it are not considered chance."""


def differences(one: Sampling | None, other: Sampling | None) -> dict[Part, str]:
    """The parts in which two ways of sampling differ, with a description."""
    if one == other:
        return {}
    if one is None or other is None:
        return {"model": "for some of them it is not known how they were made"}
    found: dict[Part, str] = {}
    if one.model != other.model:
        found["model"] = f"{one.model} and {other.model}"
    if one.prompt != other.prompt:
        found["prompt"] = f"{_short(one.prompt)} and {_short(other.prompt)}"
    if one.answer_pattern != other.answer_pattern:
        found["answer_pattern"] = f"{one.answer_pattern} and {other.answer_pattern}"
    if one.sampling != other.sampling:
        found["sampling"] = f"{one.sampling} and {other.sampling}"
    if _rule(one) != _rule(other):
        found["samples"] = f"{_rule(one)} and {_rule(other)}"
    return found


def refusal(found: Mapping[Part, str]) -> str:
    """The error text for samples that differ in these parts from a calibration's."""
    listed = "; ".join(f"{part}: {text}" for part, text in found.items())
    return (
        "these samples were not made like those of the calibration, so its guarantee does not hold for them. They differ in "
        f"{listed}. Sample them in the same way, or calibrate again"
    )


def common_sampling(rows: Sequence[SampledAnswers]) -> Sampling | None:
    """How all of these samples were made.

    Raises:
        Reject: they were made in several ways.
    """
    first = rows[0]
    for row in rows:
        if found := differences(first.made, row.made):
            listed = "; ".join(f"{part}: {text}" for part, text in found.items())
            raise Reject(
                f"the samples were made in more than one way, and a calibration is for one. They differ in {listed} (in the "
                f"questions {first.question!r} and {row.question!r})"
            )
    return first.made


def require_variation(rows: Sequence[SampledAnswers], certain: float = 0.87) -> None:
    """Raise Reject if all samples of every question are equal, and there are too many questions for that to be chance.

    Args:
        rows: sampled answers.
        certain: the share of questions whose samples are all equal on a server that does sample (with the default, 50
            questions are too many).
    """
    if certain ** len(rows) < _BY_ITSELF and all(len(row.samples) > 1 and len(set(row.samples)) == 1 for row in rows):
        raise Reject(
            f"all samples of each of the {len(rows)} questions are equal, so the frequency of an answer means nothing. The "
            "server may ignore the temperature (see `engine probe`), or return its first answer from a cache"
        )


def _rule(made: Sampling) -> str:
    if made.at_least is None:
        return f"{made.samples} samples"
    return f"{made.at_least} to {made.samples} samples, until {made.patience} bring nothing new"


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
