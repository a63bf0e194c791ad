"""How numbers are written on pages."""

from __future__ import annotations

import pytest

from engine.page.rendering.filters import brief, number


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, ""),
        (1234, "1,234"),
        (2442240.0, "2,442,240"),
        (2442240.5, "2,442,240"),
        (0.0, "0"),
        (-0.0, "0"),
        (0.4444444444444444, "0.444444"),
        (5e-05, "5e-05"),
        (123456.78, "123,457"),
        (1e300, "1e+300"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
    ],
)
def test_numbers_are_written_for_people(value: float | None, written: str) -> None:
    assert number(value) == written


@pytest.mark.parametrize(
    ("value", "written"), [(0.583333, "0.5833"), (1.04005, "1.04"), (26.0, "26"), (12345.6, "12,346"), (-0.30001, "-0.3")]
)
def test_a_measurement_has_four_digits(value: float, written: str) -> None:
    assert brief(value) == written
