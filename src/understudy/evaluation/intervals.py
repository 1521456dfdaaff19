"""How far a figure over few items may be from the truth."""

import math
from collections.abc import Sequence

from understudy.evaluation.task import Better, Figure

__all__ = ["mean_figure", "ratio_figure", "share_figure", "wilson_interval"]

_Z = 1.959964  # 95 % of a normal distribution lie within so many deviations


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share (E. B. Wilson, 1927); (0, 1) of no trials at all."""
    if trials == 0:
        return 0.0, 1.0
    share, z2 = successes / trials, _Z * _Z
    middle = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z / (1 + z2 / trials) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials * trials))
    low = 0.0 if successes == 0 else max(0.0, middle - half)
    return low, 1.0 if successes == trials else min(1.0, middle + half)


def share_figure(
    name: str, label: str, results: Sequence[bool], *, better: Better = "higher", is_detail: bool = False
) -> tuple[Figure, ...]:
    """The share of right results with Wilson's interval; no figure at all of no results."""
    if not results:
        return ()
    right = sum(results)
    low, high = wilson_interval(right, len(results))
    return (
        Figure(
            name=name, label=label, value=right / len(results), unit="share", better=better, count=len(results),
            low=low, high=high, is_detail=is_detail,
        ),
    )  # fmt: skip


def mean_figure(name: str, label: str, values: Sequence[float], *, unit: str, better: Better) -> tuple[Figure, ...]:
    """The mean with its normal 95 % interval (none of a single value); no figure at all of no values."""
    return ratio_figure(name, label, values, [1.0] * len(values), unit=unit, better=better, count=len(values))


def ratio_figure(
    name: str,
    label: str,
    sums: Sequence[float],
    weights: Sequence[float],
    *,
    unit: str,
    better: Better,
    count: int,
) -> tuple[Figure, ...]:
    """A sum over all texts by a weight over all texts, such as bits by bytes.

    Tokens of a text hang together, texts do not: the 95 % interval takes each text as one draw (the linearised
    variance of a ratio; none of a single text).

    Args:
        name: of the figure.
        label: of the figure.
        sums: of each text.
        weights: of each text, at least 0.
        unit: of the figure.
        better: which way is better.
        count: items to state, e.g. all tokens.
    """
    weight = math.fsum(weights)
    if weight <= 0:
        return ()
    ratio, size, half = math.fsum(sums) / weight, len(sums), None
    if size > 1:
        spread = math.fsum((s - ratio * w) ** 2 for s, w in zip(sums, weights, strict=True))
        half = _Z * math.sqrt(spread * size / (size - 1)) / weight
    return (
        Figure(
            name=name, label=label, value=ratio, unit=unit, better=better, count=count,
            low=None if half is None else ratio - half, high=None if half is None else ratio + half,
        ),
    )  # fmt: skip
