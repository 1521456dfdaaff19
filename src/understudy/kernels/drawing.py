"""The draw of one token: in C++ where the kernels are built, by the rule as it is written down where they are not."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from understudy.kernels.native import native_module

__all__ = [
    "DrawRule",
    "allowed_places",
    "allowed_words",
    "draw",
    "draw_reference",
    "draw_rows",
    "survey",
    "survey_reference",
]

_Floats = npt.NDArray[np.floating[Any]]
_Words = npt.NDArray[np.uint32]


def allowed_words(places: npt.NDArray[np.bool_]) -> _Words:
    """What may be drawn, as 32 places a word: bit i % 32 of word i // 32.

    Args:
        places: (V,) whether each may be.
    """
    bits = np.zeros((places.size + 31) // 32 * 32, np.bool_)
    bits[: places.size] = places
    return np.packbits(bits, bitorder="little").view("<u4").astype(np.uint32)


def allowed_places(words: _Words, size: int) -> npt.NDArray[np.intp]:
    """(A,) those of so many places that may be drawn, in order; none beyond the words."""
    bits = np.unpackbits(words.astype("<u4").view(np.uint8), bitorder="little")
    return np.flatnonzero(bits[:size])


def survey(logits: _Floats, allowed: _Words | None = None) -> tuple[int, float, int]:
    """The first place of the highest of what may be drawn, the highest, and how many may be drawn (2 for all above).

    Of none: place 0 and -inf. The highest is NaN where any logit, allowed or not, is NaN or +inf.

    Args:
        logits: (V,) at least one.
        allowed: as of `allowed_words`, one word at least; None for all.
    """
    native = native_module()
    if native is None:
        return survey_reference(logits, allowed)
    found: tuple[int, float, int] = native.survey(logits, allowed)
    return found


def survey_reference(logits: _Floats, allowed: _Words | None = None) -> tuple[int, float, int]:
    """`survey` in NumPy."""
    places = np.arange(logits.size) if allowed is None else allowed_places(allowed, logits.size)
    if not logits.max() < math.inf:  # NaN, if there is one
        return 0, math.nan, min(2, places.size)
    if not places.size:
        return 0, -math.inf, 0
    place = int(places[logits[places].argmax()])
    return place, float(logits[place]), min(2, places.size)


def draw(
    logits: _Floats,
    highest: float,
    *,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    uniform: float,
    allowed: _Words | None = None,
) -> int:
    """The place of the token drawn; see `SamplingParams` for the rule.

    What top-k leaves (and equals of its last); of that the fewest most likely that sum to top-p, of equals the first;
    of that what reaches min-p. Then the first place at which the running sum of probabilities, in the order of the
    places, passes the uniform number. Probabilities are doubles.

    Args:
        logits: (V,) floats or doubles, without NaN; -inf is never drawn.
        highest: the highest of those that may be drawn, finite.
        temperature: above 0.
        top_k: 0 for all.
        top_p: 0 to 1.
        min_p: 0 to 1.
        uniform: from 0 up to 1, without 1.
        allowed: as of `allowed_words`, one place at least; None for all. The others are as if they were not there.
    """
    native = native_module()
    if native is not None:
        place: int = native.draw(logits, highest, temperature, top_k, top_p, min_p, uniform, allowed)
        return place
    places = np.arange(logits.size) if allowed is None else allowed_places(allowed, logits.size)
    rank = draw_reference(
        logits[places], highest, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, uniform=uniform
    )
    return int(places[rank])


class DrawRule(NamedTuple):
    """How a token is drawn from a row of logits: as of `draw`, and at temperature 0 the first of the highest."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    uniform: float


def draw_rows(rows: Sequence[_Floats], rules: Sequence[DrawRule]) -> list[tuple[int, float]]:
    """One token of each row, all together: its place and the row's highest logit, both as of `survey` and `draw`.

    Where the highest is not finite nothing is drawn, and the place is `survey`'s.

    Args:
        rows: each (V,) floats or doubles, at least one; the interpreter is free while they are read.
        rules: one a row.
    """
    native = native_module()
    if native is not None:
        found: list[tuple[int, float]] = native.draw_rows(rows, rules)
        return found
    drawn: list[tuple[int, float]] = []
    for row, rule in zip(rows, rules, strict=True):
        place, highest, _ = survey_reference(row)
        if rule.temperature and math.isfinite(highest):
            place = draw_reference(row, highest, **rule._asdict())
        drawn.append((place, highest))
    return drawn


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
