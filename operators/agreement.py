"""How far people who judged the same things agree beyond chance: Krippendorff's alpha."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence


def krippendorff_alpha(units: Iterable[Sequence[Hashable]]) -> float | None:
    """Krippendorff's alpha for nominal values: 1 is perfect agreement, 0 what chance would give, below 0 worse than chance.

    With `o_ck` the number of pairs of values c and k that different people gave the same unit, each pair counted with the
    weight 1 / (m - 1) in a unit of m values, `n_c` the sum of `o_ck` over k, and n the sum of all `n_c`:

        alpha = 1 - (n - 1) * sum over c != k of o_ck / sum over c != k of n_c * n_k

    Source: K. Krippendorff, Computing Krippendorff's Alpha-Reliability, 2011, section C (nominal data, any number of
    observers, missing data), https://repository.upenn.edu/asc_papers/43.

    Args:
        units: for each thing that was judged, the values that people gave it. Those with fewer than two values are ignored.

    Returns:
        Alpha; None if nothing was judged by two people, or if all values are the same, so that agreement cannot be
        distinguished from chance.
    """
    totals: Counter[Hashable] = Counter()
    disagreeing = 0.0
    for values in units:
        if len(values) < 2:
            continue
        counts = Counter(values)
        totals.update(counts)
        equal = sum(count * (count - 1) for count in counts.values())
        disagreeing += (len(values) * (len(values) - 1) - equal) / (len(values) - 1)
    n = sum(totals.values())
    expected = n * n - sum(count * count for count in totals.values())
    return None if not expected else 1 - (n - 1) * disagreeing / expected
