"""Packed weight formats: GGML's blocks to float32 and back.

A stored matrix is a row of blocks; a block holds `block_size` neighbouring values of one matrix row in `block_bytes`
bytes. All numbers are little-endian. Layouts and rounding follow llama.cpp's `ggml-quants.c`.
"""

import enum
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

__all__ = ["IQ4_LEVELS", "StorageType", "dequantize", "group_scales", "num_stored_bytes", "quantize"]

_F32 = npt.NDArray[np.float32]
_I8 = npt.NDArray[np.int8]
_U8 = npt.NDArray[np.uint8]


class StorageType(enum.IntEnum):
    """How values are stored; the number is GGML's."""

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q8_0 = 8
    Q4_K = 12
    Q6_K = 14
    IQ4_XS = 23
    BF16 = 30

    @property
    def block_size(self) -> int:
        """Number of values in a block."""
        return _BLOCKS[self][0]

    @property
    def block_bytes(self) -> int:
        """Number of bytes in a block."""
        return _BLOCKS[self][1]


_BLOCKS = {
    StorageType.F32: (1, 4),
    StorageType.F16: (1, 2),
    StorageType.BF16: (1, 2),
    StorageType.Q4_0: (32, 2 + 16),
    StorageType.Q8_0: (32, 2 + 32),
    StorageType.Q4_K: (256, 2 + 2 + 12 + 128),
    StorageType.Q6_K: (256, 128 + 64 + 16 + 2),
    StorageType.IQ4_XS: (256, 2 + 2 + 4 + 128),
}

IQ4_LEVELS = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)
"""What the nibbles of IQ4_XS stand for: dense near zero, as weights are."""


def num_stored_bytes(kind: StorageType, shape: tuple[int, ...]) -> int:
    """Bytes that a tensor takes; rows that do not fill their last block are an error.

    Raises:
        ValueError: the last dimension is not a multiple of the block size.
    """
    if shape[-1] % kind.block_size:
        raise ValueError(f"{kind.name} stores rows in blocks of {kind.block_size} values; a row has {shape[-1]}")
    size = 1
    for dim in shape:
        size *= dim
    return size // kind.block_size * kind.block_bytes


def dequantize(raw: _U8, kind: StorageType, shape: tuple[int, ...]) -> _F32:
    """Unpack stored bytes.

    Args:
        raw: the bytes, any shape, contiguous, `num_stored_bytes(kind, shape)` of them.
        kind: their format.
        shape: shape of the result.

    Returns:
        A fresh float32 array, writable.
    """
    if kind is StorageType.F32:
        return raw.reshape(-1).view("<f4").astype(np.float32).reshape(shape)
    if kind is StorageType.F16:
        return raw.reshape(-1).view("<f2").astype(np.float32).reshape(shape)
    if kind is StorageType.BF16:
        wide = raw.reshape(-1).view("<u2").astype(np.uint32)
        wide <<= 16
        return wide.view(np.float32).reshape(shape)
    blocks = raw.reshape(-1, kind.block_bytes)
    steps, offsets = _SCALES[kind](blocks)
    values = _LEVELS[kind](blocks).astype(np.float32).reshape(*steps.shape, -1)
    values *= steps[..., None]
    if offsets is not None:
        values += offsets[..., None]
    return values.reshape(shape)


def quantize(values: npt.NDArray[np.floating], kind: StorageType) -> _U8:
    """Pack float values as F32, F16 or Q8_0.

    Q8_0 is symmetric round-to-nearest with one scale for 32 values: the error is at most scale/2 (plus the rounding of
    the scale to half precision), scale = max|x| / 127.

    Args:
        values: (..., C); C a multiple of the block size.
        kind: F32, F16 or Q8_0.

    Returns:
        (bytes,) of the packed values.

    Raises:
        ValueError: another format, rows that do not fill their blocks, or a value the format cannot hold.
    """
    size = num_stored_bytes(kind, values.shape)
    x = np.ascontiguousarray(values, dtype=np.float32)
    if not np.isfinite(x).all():
        raise ValueError("a value is infinite or not a number")
    if kind is StorageType.F32:
        packed = x.astype("<f4").reshape(-1).view(np.uint8)
    elif kind is StorageType.F16:
        if x.size and np.abs(x).max() > 65504:
            raise ValueError(f"a value of {np.abs(x).max():g} is beyond what F16 holds (65504)")
        packed = x.astype("<f2").reshape(-1).view(np.uint8)
    elif kind is StorageType.Q8_0:
        packed = _pack_q8_0(x.reshape(-1, 32))
    else:
        raise ValueError(f"writing {kind.name} is not supported; expected F32, F16 or Q8_0")
    assert packed.size == size
    return packed


def _pack_q8_0(x: _F32) -> _U8:
    scale = np.abs(x).max(axis=1, keepdims=True) / np.float32(127)
    if x.size and scale.max() > 65504:
        raise ValueError(f"a value of {np.abs(x).max():g} is beyond what Q8_0 holds")
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.where(scale < 1e-37, np.float32(0), 1 / scale)
    scaled = x * inverse
    levels = np.trunc(scaled + np.copysign(np.float32(0.5), scaled)).astype(np.int8)  # C's roundf: halves go outwards
    return np.concatenate([scale.astype("<f2").view(np.uint8), levels.view(np.uint8)], axis=1).reshape(-1)


def group_scales(raw: _U8, kind: StorageType, shape: tuple[int, ...]) -> tuple[_F32, _F32 | None]:
    """Read what turns levels into values: value = step * level + offset, one pair for a group of neighbours.

    Args:
        raw: the packed bytes.
        kind: a format with blocks.
        shape: shape of the values; groups lie along the last axis.

    Returns:
        Steps and offsets, (..., groups) float32; no offsets where the format has none.

    Raises:
        ValueError: a format without blocks.
    """
    if kind not in _SCALES:
        raise ValueError(f"{kind.name} has no scales; expected one of {', '.join(k.name for k in _SCALES)}")
    steps, offsets = _SCALES[kind](raw.reshape(-1, kind.block_bytes))
    groups = (*shape[:-1], -1)
    return steps.reshape(groups), None if offsets is None else offsets.reshape(groups)


def _half(raw: _U8) -> _F32:
    return np.ascontiguousarray(raw).view("<f2").astype(np.float32)


def _scales_at_start(blocks: _U8) -> tuple[_F32, None]:
    """d: f16 in front of the levels."""
    return _half(blocks[:, :2]), None


def _scales_q4_k(blocks: _U8) -> tuple[_F32, _F32]:
    """d, dmin: f16 | 12 bytes: 8 six-bit scales and minima; step = d * scale, offset = -dmin * minimum."""
    low, mid, high = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scales = np.concatenate([low & 0x3F, (high & 0x0F) | ((low >> 2) & 0x30)], axis=1).astype(np.float32)
    minima = np.concatenate([mid & 0x3F, (high >> 4) | ((mid >> 2) & 0x30)], axis=1).astype(np.float32)
    return _half(blocks[:, 0:2]) * scales, -(_half(blocks[:, 2:4]) * minima)


def _scales_q6_k(blocks: _U8) -> tuple[_F32, None]:
    """Behind 192 bytes of levels 16 int8 scales | d: f16."""
    return _half(blocks[:, 208:210]) * blocks[:, 192:208].view(np.int8).astype(np.float32), None


def _scales_iq4_xs(blocks: _U8) -> tuple[_F32, None]:
    """d: f16 | u16: high bits of 8 scales | 4 bytes: their low nibbles; step = d * (scale - 32)."""
    high = np.ascontiguousarray(blocks[:, 2:4]).view("<u2") >> np.arange(0, 16, 2, dtype=np.uint16)
    low = np.stack([blocks[:, 4:8] & 15, blocks[:, 4:8] >> 4], axis=2).reshape(-1, 8)
    scales = (low | (high.astype(np.uint8) & 3) << 4).view(np.int8) - np.int8(32)
    return _half(blocks[:, 0:2]) * scales.astype(np.float32), None


def _levels_q4_0(blocks: _U8) -> _I8:
    """16 bytes: low nibbles are values 0-15, high nibbles 16-31; level = nibble - 8."""
    return np.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], axis=1).view(np.int8) - np.int8(8)


def _levels_q8_0(blocks: _U8) -> _I8:
    """32 int8."""
    return blocks[:, 2:].view(np.int8)


def _levels_q4_k(blocks: _U8) -> _I8:
    """128 bytes of nibbles, 64 values a 32 bytes, the first 32 of them below."""
    packed = blocks[:, 16:].reshape(-1, 4, 1, 32)
    return np.concatenate([packed & 15, packed >> 4], axis=2).view(np.int8)


def _levels_q6_k(blocks: _U8) -> _I8:
    """128 bytes: low four bits | 64 bytes: high two bits; level = q - 32."""
    packed = blocks[:, :128].reshape(-1, 2, 1, 64)
    low = np.concatenate([packed & 15, packed >> 4], axis=2).reshape(-1, 8, 32)
    packed = blocks[:, 128:192].reshape(-1, 2, 1, 32)
    high = np.concatenate([(packed >> s) & 3 for s in (0, 2, 4, 6)], axis=2).reshape(-1, 8, 32)
    levels: _I8 = (low | (high << 4)).view(np.int8) - np.int8(32)
    return levels


def _levels_iq4_xs(blocks: _U8) -> _I8:
    """128 bytes of nibbles, 32 values a 16 bytes: the low ones are values 0-15; level = IQ4_LEVELS[nibble]."""
    packed = blocks[:, 8:].reshape(-1, 8, 16)
    levels: _I8 = IQ4_LEVELS[np.concatenate([packed & 15, packed >> 4], axis=2)]
    return levels


_SCALES: dict[StorageType, Callable[[_U8], tuple[_F32, _F32 | None]]] = {
    StorageType.Q4_0: _scales_at_start,
    StorageType.Q8_0: _scales_at_start,
    StorageType.Q4_K: _scales_q4_k,
    StorageType.Q6_K: _scales_q6_k,
    StorageType.IQ4_XS: _scales_iq4_xs,
}
_LEVELS: dict[StorageType, Callable[[_U8], _I8]] = {
    StorageType.Q4_0: _levels_q4_0,
    StorageType.Q8_0: _levels_q8_0,
    StorageType.Q4_K: _levels_q4_k,
    StorageType.Q6_K: _levels_q6_k,
    StorageType.IQ4_XS: _levels_iq4_xs,
}
