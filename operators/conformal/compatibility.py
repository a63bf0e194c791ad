"""Checks that samples were made like those of a calibration; otherwise its guarantee does not hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from engine.operator import Reject
from operators.records import SampledAnswers, Sampling
from registry.counted import counted

Part = Literal["model", "prompt", "answer_pattern", "sampling", "samples", "encoder"]

_NEGLIGIBLE = 0.001
"""An event with a smaller probability is not put down to chance."""


def differences(one: Sampling | None, other: Sampling | None) -> dict[Part, str]:
    """The parts in which two ways of sampling differ, with a description."""
    if one == other:
        return {}
    if one is None or other is None:
        return {"model": "some samples do not record how they were made"}
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
    return (
        "the samples were not made like those of the calibration, so its guarantee does not hold for them. They differ in "
        f"{_listed(found)}. Sample in the same way, or calibrate again"
    )


def common_sampling(rows: Sequence[SampledAnswers]) -> Sampling | None:
    """How all of these samples were made.

    Raises:
        Reject: they were made in several ways.
    """
    first = rows[0]
    for row in rows:
        if found := differences(first.made, row.made):
            raise Reject(
                "the samples were made in more than one way, but a calibration holds for one way only. They differ in "
                f"{_listed(found)} (compare the questions {first.question!r} and {row.question!r})"
            )
    return first.made


def require_variation(rows: Sequence[SampledAnswers], certain: float = 0.87) -> None:
    """Raise Reject if all samples of each question are equal and there are too many questions for this to be chance.

    Args:
        rows: sampled answers.
        certain: the expected share of questions whose samples are all equal although the server samples (with the default,
            50 such questions in a row are too many).
    """
    if certain ** len(rows) < _NEGLIGIBLE and all(len(row.samples) > 1 and len(set(row.samples)) == 1 for row in rows):
        raise Reject(
            f"all samples of each of {counted(rows, 'question')} are equal, so frequencies say nothing about the answers. The "
            "server may ignore the temperature (check with `engine probe`), or cache its first answer"
        )


def _listed(found: Mapping[Part, str]) -> str:
    return "; ".join(f"{part}: {text}" for part, text in found.items())


def _rule(made: Sampling) -> str:
    if made.at_least is None:
        return counted(made.samples, "sample")
    return f"{made.at_least} to {counted(made.samples, 'sample')}, until {made.patience} bring nothing new"


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
