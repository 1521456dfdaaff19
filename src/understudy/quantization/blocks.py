"""Weights to GGML's blocks: ranges found by a search that weighs each input by how strong it is.

The error that counts is the layer's output, so a column's squared errors are weighted by E[x^2] of its input channel.
`encode` uses the compiled search where it is built, and else NumPy; both give the same bytes.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
import numpy.typing as npt

from understudy.kernels.formats import StorageType, num_stored_bytes, quantize
from understudy.kernels.native import encode_blocks, kernel_names
from understudy.quantization.search import CURVE, SYMMETRIC, search_minima, search_scale, search_scales

__all__ = ["ENCODED", "encode", "encode_flat"]

_F32 = npt.NDArray[np.float32]
_U8 = npt.NDArray[np.uint8]

ENCODED = (StorageType.Q4_0, StorageType.Q8_0, StorageType.Q4_K, StorageType.Q6_K, StorageType.IQ4_XS)
"""Formats that have a search; F32, F16 and Q8_0 without weights are `kernels.formats.quantize`'s."""

_MAX_VALUE = 60000.0
_SLAB_VALUES = 1 << 19
_LEAST_WEIGHT = 1e-6


def encode(
    values: npt.NDArray[np.floating],
    kind: StorageType,
    importance: npt.NDArray[np.floating] | None = None,
    *,
    spread: bool = True,
    num_threads: int | None = None,
) -> _U8:
    """Pack a matrix.

    Args:
        values: (rows, cols); cols a multiple of the format's block.
        kind: a format of `ENCODED`, or F32 or F16, which take no notice of the rest.
        importance: (cols,) E[x^2] of each input channel, >= 0; None weighs all alike. A channel that never fired still
            keeps its rounded weights: it counts a millionth of the mean.
        spread: weigh large weights more, by sqrt(2 * mean(x^2) + x^2) with the mean over 256 values.
        num_threads: threads; None for every core that the process may use.

    Returns:
        (bytes,) blocks in row order.

    Raises:
        ValueError: rows do not fill their blocks, a value is not finite or beyond 60000, or `importance` has another
            size or a bad value.
    """
    if kind not in ENCODED:
        return quantize(values, kind)
    rows, cols = values.shape
    size = num_stored_bytes(kind, (rows, cols))
    column_weights = _column_weights(importance, cols)
    out = np.empty(size, np.uint8)
    step = max(1, _SLAB_VALUES // cols)
    row_bytes = size // rows

    def pack(start: int) -> None:
        x = np.ascontiguousarray(values[start : start + step], np.float32)
        if not (np.abs(x) <= _MAX_VALUE).all():
            raise ValueError(f"a value is not a number, infinite or beyond what {kind.name} holds ({_MAX_VALUE:g})")
        w = np.broadcast_to(column_weights, x.shape)
        w = w * _spread(x) if spread else np.ascontiguousarray(w)
        out[start * row_bytes : (start + len(x)) * row_bytes] = encode_flat(x.reshape(-1), w.reshape(-1), kind)

    threads = num_threads or _num_cores()
    starts = range(0, rows, step)
    if threads == 1 or len(starts) == 1:
        for start in starts:
            pack(start)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(pack, starts))
    return out


def encode_flat(x: _F32, w: _F32, kind: StorageType, *, by: Literal["native", "numpy"] | None = None) -> _U8:
    """Pack whole blocks of values with a weight each.

    Args:
        x: (count,) finite float32.
        w: (count,) > 0.
        kind: a format of `ENCODED`.
        by: who searches; None for the compiled kernels where they are built.
    """
    if by == "native" or (by is None and kernel_names()):
        return encode_blocks(int(kind), x, w)
    return _PACK[kind](x, w).reshape(-1)


def _column_weights(importance: npt.NDArray[np.floating] | None, cols: int) -> _F32:
    if importance is None:
        return np.ones(cols, np.float32)
    weights = np.asarray(importance, np.float64)
    if weights.shape != (cols,) or not np.isfinite(weights).all() or (weights < 0).any():
        raise ValueError(f"importance must be {cols} finite numbers from 0 up, got shape {weights.shape}")
    mean = float(weights.mean())
    if mean == 0.0:
        return np.ones(cols, np.float32)
    return np.maximum(weights / mean, _LEAST_WEIGHT).astype(np.float32)


def _spread(x: _F32) -> _F32:
    """sqrt(2 mean + x^2), the mean over 256 neighbours (over the row where it does not fill them), relative."""
    square = x * x
    size = 256 if x.shape[1] % 256 == 0 else x.shape[1]
    mean = square.reshape(-1, size).mean(axis=1, keepdims=True)
    mean = np.maximum(mean, np.float32(1e-30))
    relative: _F32 = np.sqrt(np.float32(2) + square.reshape(-1, size) / mean)
    return relative.reshape(x.shape)


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _grouped(x: _F32, group: int) -> _F32:
    return np.ascontiguousarray(x.reshape(-1, group).T)


def _half_bytes(x: _F32) -> _U8:
    return x.astype("<f2").view(np.uint8).reshape(-1, 2)


def _pack_q4_k(x: _F32, w: _F32) -> _U8:
    d, dmin, scales, minima, levels = search_minima(_grouped(x, 32), _grouped(w, 32))
    s, m = scales.astype(np.uint8).reshape(-1, 8), minima.astype(np.uint8).reshape(-1, 8)
    nibbles = np.ascontiguousarray(levels.T).astype(np.uint8).reshape(-1, 4, 2, 32)
    return np.concatenate(
        [
            _half_bytes(d),
            _half_bytes(dmin),
            s[:, :4] | (s[:, 4:] >> 4) << 6,
            m[:, :4] | (m[:, 4:] >> 4) << 6,
            (s[:, 4:] & 15) | (m[:, 4:] & 15) << 4,
            (nibbles[:, :, 0] | nibbles[:, :, 1] << 4).reshape(-1, 128),
        ],
        axis=1,
    )


def _pack_q6_k(x: _F32, w: _F32) -> _U8:
    d, scales, levels = search_scales(_grouped(x, 16), _grouped(w, 16), SYMMETRIC["Q6_K"])
    q = (np.ascontiguousarray(levels.T) + np.float32(32)).astype(np.uint8).reshape(-1, 2, 4, 32)
    low = np.concatenate(
        [(q[:, :, 0] & 15) | (q[:, :, 2] & 15) << 4, (q[:, :, 1] & 15) | (q[:, :, 3] & 15) << 4], axis=2
    )
    high = q[:, :, 0] >> 4 | (q[:, :, 1] >> 4) << 2 | (q[:, :, 2] >> 4) << 4 | (q[:, :, 3] >> 4) << 6
    whole = scales.astype(np.int8).view(np.uint8).reshape(-1, 16)
    return np.concatenate([low.reshape(-1, 128), high.reshape(-1, 64), whole, _half_bytes(d)], axis=1)


def _pack_iq4_xs(x: _F32, w: _F32) -> _U8:
    d, scales, levels = search_scales(_grouped(x, 32), _grouped(w, 32), SYMMETRIC["IQ4_XS"])
    index = np.searchsorted(np.asarray(CURVE), np.ascontiguousarray(levels.T)).astype(np.uint8).reshape(-1, 8, 2, 16)
    whole = (scales + np.float32(32)).astype(np.uint16).reshape(-1, 8)
    high = (
        ((whole >> 4) << np.arange(0, 16, 2, dtype=np.uint16)).sum(axis=1).astype("<u2").view(np.uint8).reshape(-1, 2)
    )
    low = (whole[:, ::2] & 15 | (whole[:, 1::2] & 15) << 4).astype(np.uint8)
    return np.concatenate([_half_bytes(d), high, low, (index[:, :, 0] | index[:, :, 1] << 4).reshape(-1, 128)], axis=1)


def _pack_q4_0(x: _F32, w: _F32) -> _U8:
    scale, levels = search_scale(_grouped(x, 32), _grouped(w, 32), SYMMETRIC["Q4_0"])
    q = (np.ascontiguousarray(levels.T) + np.float32(8)).astype(np.uint8)
    return np.concatenate([_half_bytes(scale), q[:, :16] | q[:, 16:] << 4], axis=1)


def _pack_q8_0(x: _F32, w: _F32) -> _U8:
    scale, levels = search_scale(_grouped(x, 32), _grouped(w, 32), SYMMETRIC["Q8_0"])
    return np.concatenate([_half_bytes(scale), np.ascontiguousarray(levels.T).astype(np.int8).view(np.uint8)], axis=1)


_PACK: dict[StorageType, Callable[[_F32, _F32], _U8]] = {
    StorageType.Q4_0: _pack_q4_0,
    StorageType.Q8_0: _pack_q8_0,
    StorageType.Q4_K: _pack_q4_k,
    StorageType.Q6_K: _pack_q6_k,
    StorageType.IQ4_XS: _pack_iq4_xs,
}
