"""The draw of one token: in C++ where the kernels are built, by the rule as it is written down where they are not."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.kernels.native import native_module

__all__ = ["draw", "draw_reference"]

_Floats = npt.NDArray[np.floating[Any]]


def draw(
    logits: _Floats, highest: float, *, temperature: float, top_k: int, top_p: float, min_p: float, uniform: float
) -> int:
    """The place of the token drawn; see `SamplingParams` for the rule.

    What top-k leaves (and equals of its last); of that the fewest most likely that sum to top-p, of equals the first;
    of that what reaches min-p. Then the first place at which the running sum of probabilities, in the order of the
    places, passes the uniform number. Probabilities are doubles.

    Args:
        logits: (V,) floats or doubles, without NaN; -inf is never drawn.
        highest: the highest of them, finite.
        temperature: above 0.
        top_k: 0 for all.
        top_p: 0 to 1.
        min_p: 0 to 1.
        uniform: from 0 up to 1, without 1.
    """
    native = native_module()
    if native is None:
        return draw_reference(
            logits, highest, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, uniform=uniform
        )
    place: int = native.draw(logits, highest, temperature, top_k, top_p, min_p, uniform)
    return place


def draw_reference(
    logits: _Floats, highest: float, *, temperature: float, top_k: int, top_p: float, min_p: float, uniform: float
) -> int:
    """`draw` in NumPy, which the compiled one is tested against."""
    # The highest logit goes to 0 first, so that a tiny temperature cannot overflow; others may go to -inf.
    with np.errstate(over="ignore"):
        weights = np.exp((logits.astype(np.float64) - highest) / temperature)
    if 0 < top_k < logits.size:
        weights[logits < np.partition(logits, -top_k)[-top_k]] = 0
    if top_p < 1:
        ordered = np.argsort(-logits, kind="stable")
        sums = np.cumsum(weights[ordered])
        weights[ordered[max(1, int(np.searchsorted(sums, top_p * weights.sum()) + 1)) :]] = 0
    if min_p > 0:
        weights[logits.astype(np.float64) < highest + temperature * math.log(min_p)] = 0
    sums = np.cumsum(weights)
    place = int(np.searchsorted(sums, uniform * sums[-1], side="right"))
    return place if place < logits.size else int(np.flatnonzero(weights)[-1])
