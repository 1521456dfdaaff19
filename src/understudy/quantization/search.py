"""The search for scales in NumPy: the oracle of `native/src/encode_impl.h`, operation by operation.

Arrays are (values of a group, groups); a sum runs over a group in its order, so the compiled twin gives the same bytes.
Everything is float32. See the header for what is searched, and why in this order.
"""

import dataclasses
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import numpy.typing as npt

__all__ = ["CURVE", "SYMMETRIC", "Symmetric", "search_minima", "search_scale", "search_scales"]

_F32 = npt.NDArray[np.float32]

CURVE = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
"""The levels of IQ4_XS."""

_TINY = np.float32(1e-30)
_MAGIC = np.float32(12582912.0)
_CLIPS = np.array([-0.02, 0.02, 0.06, 0.10, 0.15, 0.21], np.float32)
_DIVISORS = np.array(
    [64.5, 63.5, 63, 62, 61, 60, 59, 58, 57, 56, 55, 54, 53, 52, 50.5, 48.5],
    np.float32,
)
_POLISH = 3
_ROUNDS = 2


def _round(x: _F32) -> _F32:
    return (x + _MAGIC) - _MAGIC


def _clip(x: _F32, low: float, high: float) -> _F32:
    return np.minimum(np.maximum(x, np.float32(low)), np.float32(high))


def _inverse(x: _F32) -> _F32:
    with np.errstate(divide="ignore"):
        out: _F32 = np.where(np.abs(x) > _TINY, np.float32(1) / x, np.float32(0))
    return out


def _half(x: _F32) -> _F32:
    with np.errstate(over="ignore"):
        return x.astype(np.float16).astype(np.float32)


def _sum(x: _F32) -> _F32:
    """Sum over a group, value by value."""
    out: _F32 = np.add.reduce(x, axis=0)
    return out


def _lane_sum(x: _F32, lanes: int) -> _F32:
    """(groups,) to a sum for each super-block of `lanes` groups, lane by lane."""
    parts = x.reshape(-1, lanes)
    total = np.zeros(len(parts), np.float32)
    for lane in range(lanes):
        total = total + parts[:, lane]
    return total


@dataclasses.dataclass
class _Range:
    """x ~ scale * level + offset for each group, and its error."""

    scale: _F32
    offset: _F32
    error: _F32

    def keep_better(self, other: "_Range") -> None:
        better = other.error < self.error
        self.scale = np.where(better, other.scale, self.scale)
        self.offset = np.where(better, other.offset, self.offset)
        self.error = np.where(better, other.error, self.error)


class _Minima:
    """Groups of 32 with scale and minimum, eight to a super-block."""

    def __init__(self, x: _F32, w: _F32) -> None:
        self.x, self.w = x, w
        wx = w * x
        self.sum_w, self.sum_x, self.sum_xx = _sum(w), _sum(wx), _sum(wx * x)

    def levels(self, scale: _F32, offset: _F32) -> _F32:
        return _round(_clip((self.x - offset) * _inverse(scale), 0, 15))

    def sums(self, scale: _F32, offset: _F32) -> tuple[_F32, _F32, _F32]:
        level = self.levels(scale, offset)
        wl = self.w * level
        return _sum(wl), _sum(wl * level), _sum(wl * self.x)

    def error(self, scale: _F32, offset: _F32) -> _F32:
        rest = (self.x - offset) - scale * self.levels(scale, offset)
        return _sum((self.w * rest) * rest)

    def solve(self, sums: tuple[_F32, _F32, _F32]) -> _Range:
        """Best scale >= 0 and offset <= 0 for levels with these sums."""
        sum_l, sum_ll, sum_lx = sums
        zero = np.float32(0)
        full = self.sum_w * sum_ll
        det = full - sum_l * sum_l
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            fitted = (self.sum_w * sum_lx - self.sum_x * sum_l) / det
            fitted_offset = (sum_ll * self.sum_x - sum_l * sum_lx) / det
            scale_alone = np.maximum(sum_lx * _inverse(sum_ll), zero)
            offset_alone = np.where(sum_ll > _TINY, zero, np.minimum(self.sum_x * _inverse(self.sum_w), zero))
            alone: npt.NDArray[np.bool_] = ~(full * np.float32(1e-5) < det) | (fitted_offset > 0)
        scale: _F32 = np.where(alone, scale_alone, fitted)
        offset: _F32 = np.where(alone, offset_alone, fitted_offset)
        return _Range(scale, offset, (self.sum_xx - scale * sum_lx) - offset * self.sum_x)

    def best_range(self) -> _Range:
        zeros = np.zeros_like(self.sum_w)
        low, high = np.minimum(self.x.min(axis=0), np.float32(0)), self.x.max(axis=0)
        span = high - low
        best = _Range(zeros, zeros, self.sum_xx)
        best.keep_better(self.solve((zeros, zeros, zeros)))
        for below in _CLIPS:
            for above in _CLIPS:
                offset = np.minimum(low + span * below, np.float32(0))
                scale = ((high - span * above) - offset) * (np.float32(1) / np.float32(15))
                fit = self.solve(self.sums(scale, offset))
                best.keep_better(fit)
                best.keep_better(self.solve(self.sums(fit.scale, fit.offset)))
        for _ in range(_POLISH):
            best.keep_better(self.solve(self.sums(best.scale, best.offset)))
        return best

    def quadratic(self, sums: tuple[_F32, _F32, _F32], scale: _F32, minimum: _F32) -> _F32:
        sum_l, sum_ll, sum_lx = sums
        cross = np.float32(2) * (sum_lx + minimum * sum_l)
        first = scale * (scale * sum_ll - cross)
        second = minimum * (minimum * self.sum_w + np.float32(2) * self.sum_x)
        error: _F32 = (self.sum_xx + first) + second
        return error

    def best_minimum(self, sums: tuple[_F32, _F32, _F32], scale: _F32) -> _F32:
        minimum: _F32 = np.maximum((scale * sums[0] - self.sum_x) * _inverse(self.sum_w), np.float32(0))
        return minimum


def _best_unit(values: _F32, error: Callable[[_F32], _F32]) -> _F32:
    """For each super-block the unit in which `values` >= 0 become 6-bit numbers with the least error."""
    peak = np.maximum(values.reshape(-1, 8).max(axis=1), np.float32(0))
    best: _F32 = np.zeros_like(peak)
    least: _F32 = np.full_like(peak, np.inf)
    for divisor in _DIVISORS:
        unit = _half(peak / divisor)
        wide = np.repeat(unit, 8)
        total = _lane_sum(error(wide * _round(_clip(values * _inverse(wide), 0, 63))), 8)
        best, least = np.where(total < least, unit, best), np.minimum(total, least)
    return best


@dataclasses.dataclass
class _SixBits:
    d: _F32
    dmin: _F32
    scales: _F32
    minima: _F32

    def fit(self) -> tuple[_F32, _F32]:
        """Scale and offset of each group."""
        return np.repeat(self.d, 8) * self.scales, np.float32(0) - np.repeat(self.dmin, 8) * self.minima


def search_minima(x: _F32, w: _F32) -> tuple[_F32, _F32, _F32, _F32, _F32]:
    """Q4_K.

    Args:
        x: (32, groups), eight groups a super-block.
        w: weights of the squared errors, like `x`.

    Returns:
        d and dmin (super-blocks,), scales and minima (groups,) from 0 to 63, levels (32, groups) from 0 to 15.
    """
    group = _Minima(x, w)
    fit = group.best_range()
    sums = group.sums(fit.scale, fit.offset)
    d = _best_unit(fit.scale, lambda s: group.quadratic(sums, s, group.best_minimum(sums, s)))
    wide = np.repeat(d, 8)
    scales = _round(_clip(fit.scale * _inverse(wide), 0, 63))
    scale = wide * scales
    minimum = group.best_minimum(sums, scale)
    dmin = _best_unit(minimum, lambda m: group.quadratic(sums, scale, m))
    bits = _SixBits(d, dmin, scales, _round(_clip(minimum * _inverse(np.repeat(dmin, 8)), 0, 63)))
    for _ in range(_ROUNDS):
        _refit(group, bits, _try_neighbours(group, bits))
    _try_neighbours(group, bits)
    return bits.d, bits.dmin, bits.scales, bits.minima, group.levels(*bits.fit())


def _try_neighbours(group: _Minima, bits: _SixBits) -> _F32:
    scales, minima = bits.scales, bits.minima
    d, dmin = np.repeat(bits.d, 8), np.repeat(bits.dmin, 8)
    least = group.error(*bits.fit())
    for i in (-1, 0, 1):
        for j in (-1, 0, 1):
            if i == 0 and j == 0:
                continue
            scale, minimum = _clip(scales + np.float32(i), 0, 63), _clip(minima + np.float32(j), 0, 63)
            error = group.error(d * scale, np.float32(0) - dmin * minimum)
            better = error < least
            bits.scales, bits.minima = np.where(better, scale, bits.scales), np.where(better, minimum, bits.minima)
            least = np.where(better, error, least)
    return least


def _refit(group: _Minima, bits: _SixBits, errors: _F32) -> None:
    """Solve for d and dmin by least squares for the levels at hand; kept where fresh levels make the error smaller."""
    sum_l, sum_ll, sum_lx = group.sums(*bits.fit())
    aa, ab = _lane_sum((bits.scales * bits.scales) * sum_ll, 8), _lane_sum((bits.scales * bits.minima) * sum_l, 8)
    bb = _lane_sum((bits.minima * bits.minima) * group.sum_w, 8)
    a, b = _lane_sum(bits.scales * sum_lx, 8), _lane_sum(bits.minima * group.sum_x, 8)
    det = aa * bb - ab * ab
    flat = ~(det > np.float32(1e-5) * (aa * bb))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        d = _half(np.where(flat, a * _inverse(aa), (a * bb - ab * b) / det))
        dmin = _half(np.where(flat, np.float32(0), (ab * a - aa * b) / det))
    after = _lane_sum(group.error(*_SixBits(d, dmin, bits.scales, bits.minima).fit()), 8)
    better = after < _lane_sum(errors, 8)
    bits.d, bits.dmin = np.where(better, d, bits.d), np.where(better, dmin, bits.dmin)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Symmetric:
    """A format without minima.

    Attributes:
        group: values that share a scale.
        lanes: groups of a super-block that share a unit; 0 where a group has a half-precision scale of its own.
        reach: how far from its first choice a group's whole scale is looked for.
        low: least whole scale.
        high: greatest whole scale.
        starts: levels at which a start puts the group's largest value.
        tops: whole scales at which the super-block's largest scale may stand.
        rounding: level of the largest value in plain rounding.
        nearest: the nearest level of each value that is divided by its scale.
    """

    group: int = 32
    lanes: int = 0
    reach: int = 0
    low: float = 0
    high: float = 0
    starts: tuple[float, ...]
    tops: tuple[float, ...] = ()
    rounding: float = 0
    nearest: Callable[[_F32], _F32]


def _curve_level(y: _F32) -> _F32:
    level = np.full_like(y, CURVE[0])
    for low, high in pairwise(CURVE):
        level = level + np.where(np.float32((low + high) / 2) < y, np.float32(high - low), np.float32(0))
    return level


SYMMETRIC = {
    "Q4_0": Symmetric(
        starts=(-9.2, -8.7, -8.35, -8, -7.7, -7.4, -7.05, -6.6, 8.2, 7.7, 7.35, 7, 6.7, 6.4, 6, 5.6),
        rounding=-8,
        nearest=lambda y: _round(_clip(y, -8, 7)),
    ),
    "Q8_0": Symmetric(
        starts=(127, 127.4, 126.6, 126, 125, 124, 123, 122),
        rounding=127,
        nearest=lambda y: _round(_clip(y, -127, 127)),
    ),
    "Q6_K": Symmetric(
        group=16,
        lanes=16,
        reach=1,
        low=-128,
        high=127,
        starts=(
            *(-33.5, -33, -32.5, -32, -31.5, -31, -30.5, -30, -29.5, -29),
            *(32.5, 32, 31.5, 31, 30.5, 30, 29.5, 29),
        ),
        tops=(-128, -127, -126, -125, -124, -122, -120, -118, 127, 126, 125, 124, 122, 120, 118, 116),
        nearest=lambda y: _round(_clip(y, -32, 31)),
    ),
    "IQ4_XS": Symmetric(
        lanes=8,
        reach=2,
        low=-32,
        high=31,
        starts=(
            *(-140, -134, -130, -127, -124, -120, -115, -109, -102),
            *(124, 119, 116, 113, 110, 107, 103, 97, 90),
        ),
        tops=(-32, -31, -30, -29, -28, -27, -26, -25, 31, 30, 29, 28, 27, 26, 25, 24),
        nearest=_curve_level,
    ),
}


class _Scaled:
    """Groups with a scale each."""

    def __init__(self, x: _F32, w: _F32, form: Symmetric) -> None:
        self.x, self.w, self.form = x, w, form
        magnitude = np.abs(x)
        self.top: _F32 = np.take_along_axis(x, magnitude.argmax(axis=0)[None], axis=0)[0]

    def levels(self, scale: _F32) -> _F32:
        return self.form.nearest(self.x * _inverse(scale))

    def products(self, scale: _F32) -> tuple[_F32, _F32]:
        level = self.levels(scale)
        wl = self.w * level
        return _sum(wl * level), _sum(wl * self.x)

    def error(self, scale: _F32) -> _F32:
        rest = self.x - scale * self.levels(scale)
        return _sum((self.w * rest) * rest)

    def best_scale(self) -> _F32:
        best = most = np.zeros(self.x.shape[1], np.float32)

        def take(scale: _F32) -> _F32:
            nonlocal best, most
            sum_ll, sum_lx = self.products(scale)
            fitted = sum_lx * _inverse(sum_ll)
            gain = fitted * sum_lx
            best, most = np.where(most < gain, fitted, best), np.where(gain > most, gain, most)
            return fitted

        for start in self.form.starts:
            take(take(self.top * (np.float32(1) / np.float32(start))))
        for _ in range(_POLISH):
            take(best)
        return best


def search_scale(x: _F32, w: _F32, form: Symmetric) -> tuple[_F32, _F32]:
    """Q4_0 and Q8_0: the best of the search and of plain rounding.

    Returns:
        Scales (groups,) as half precision holds them, and levels (32, groups).
    """
    group = _Scaled(x, w, form)
    found = _half(group.best_scale())
    plain = _half(group.top * (np.float32(1) / np.float32(form.rounding)))
    scale = np.where(group.error(plain) < group.error(found), plain, found)
    return scale, group.levels(scale)


def search_scales(x: _F32, w: _F32, form: Symmetric) -> tuple[_F32, _F32, _F32]:
    """Q6_K and IQ4_XS.

    Returns:
        Units (super-blocks,), whole scales (groups,), levels (values of a group, groups).
    """
    group, lanes = _Scaled(x, w, form), form.lanes
    scale = group.best_scale()
    sum_ll, sum_lx = group.products(scale)
    sum_xx = _sum((w * x) * x)
    unit = _best_signed_unit(scale, (sum_xx, sum_ll, sum_lx), form)
    whole = _whole(scale, np.repeat(unit, lanes), form)
    for _ in range(_ROUNDS):
        whole, errors = _try_scales(group, np.repeat(unit, lanes), whole)
        sum_ll, sum_lx = group.products(np.repeat(unit, lanes) * whole)
        numerator, denominator = _lane_sum(whole * sum_lx, lanes), _lane_sum((whole * whole) * sum_ll, lanes)
        other = _half(numerator * _inverse(denominator))
        after = _lane_sum(group.error(np.repeat(other, lanes) * whole), lanes)
        unit = np.where(after < _lane_sum(errors, lanes), other, unit)
    whole, _ = _try_scales(group, np.repeat(unit, lanes), whole)
    return unit, whole, group.levels(np.repeat(unit, lanes) * whole)


def _whole(scale: _F32, unit: _F32, form: Symmetric) -> _F32:
    return _round(_clip(scale * _inverse(unit), form.low, form.high))


def _best_signed_unit(scale: _F32, sums: tuple[_F32, _F32, _F32], form: Symmetric) -> _F32:
    sum_xx, sum_ll, sum_lx = sums
    lanes = scale.reshape(-1, form.lanes)
    peak = np.take_along_axis(lanes, np.abs(lanes).argmax(axis=1)[:, None], axis=1)[:, 0]
    best, least = np.zeros_like(peak), np.full_like(peak, np.inf)
    for top in form.tops:
        unit = _half(peak / np.float32(top))
        wide = np.repeat(unit, form.lanes)
        s = wide * _whole(scale, wide, form)
        total = _lane_sum(sum_xx + s * (s * sum_ll - np.float32(2) * sum_lx), form.lanes)
        best, least = np.where(total < least, unit, best), np.minimum(total, least)
    return best


def _try_scales(group: _Scaled, unit: _F32, middle: _F32) -> tuple[_F32, _F32]:
    scales, least = middle, group.error(unit * middle)
    for step in range(-group.form.reach, group.form.reach + 1):
        if step == 0:
            continue
        other = _clip(middle + np.float32(step), group.form.low, group.form.high)
        error = group.error(unit * other)
        scales, least = np.where(error < least, other, scales), np.where(error < least, error, least)
    return scales, least
