"""Packed weights as the GPU kernels read them: the same bits, in whole words of 32 values a group."""

import numpy as np
import numpy.typing as npt

from understudy.kernels.formats import StorageType

__all__ = ["INTEGER_TYPES", "gpu_bytes", "gpu_layout", "num_groups"]

_U8 = npt.NDArray[np.uint8]

INTEGER_TYPES = (StorageType.Q4_0, StorageType.Q8_0, StorageType.Q4_K, StorageType.Q6_K, StorageType.IQ4_XS)
# Bytes of levels for a group, and of scales for as many groups as share them.
_SIZES = {
    StorageType.F32: (128, 0, 1),
    StorageType.F16: (64, 0, 1),
    StorageType.BF16: (64, 0, 1),
    StorageType.Q4_0: (16, 2, 1),
    StorageType.Q8_0: (32, 2, 1),
    StorageType.Q4_K: (16, 16, 8),
    StorageType.Q6_K: (16, 84, 8),
    StorageType.IQ4_XS: (16, 8, 8),
}


def num_groups(cols: int) -> int:
    """Groups of 32 that a row of so many values takes."""
    return -(-cols // 32)


def gpu_bytes(kind: StorageType, rows: int, cols: int) -> tuple[int, int]:
    """Bytes of levels and of scales of a matrix on the GPU, each rounded up to 16."""
    levels, scales, shared = _SIZES[kind]
    groups = rows * num_groups(cols)
    return groups * levels, -(-groups // shared * scales // 16) * 16


def gpu_layout(raw: _U8, kind: StorageType, rows: int, cols: int) -> tuple[_U8, _U8]:
    """Levels and scales of a matrix; `wgsl/format_*.wgsl` tell what stands where.

    Args:
        raw: the stored bytes.
        kind: their format.
        rows: of the matrix.
        cols: of the matrix.

    Returns:
        Levels and scales; no scales where the format has none.
    """
    if kind not in INTEGER_TYPES:
        values = raw.reshape(rows, -1)
        padding = num_groups(cols) * 32 * kind.block_bytes - values.shape[1]
        return np.pad(values, ((0, 0), (0, padding))).reshape(-1), np.empty(0, np.uint8)
    blocks = raw.reshape(-1, kind.block_bytes)
    if kind in (StorageType.Q4_0, StorageType.Q8_0):
        return blocks[:, 2:].reshape(-1), blocks[:, :2].reshape(-1)
    if kind is StorageType.IQ4_XS:
        return blocks[:, 8:].reshape(-1), blocks[:, :8].reshape(-1)
    if kind is StorageType.Q4_K:
        return _nibbles(_halves(blocks[:, 16:], 32)), blocks[:, :16].reshape(-1)
    return _nibbles(_halves(blocks[:, :128], 64)), _heads_q6_k(blocks)


def _halves(packed: _U8, run: int) -> _U8:
    """Unpack bytes whose low nibbles are `run` values and whose high ones are the next `run`: (groups, 32)."""
    parts = packed.reshape(-1, 1, run)
    return np.concatenate([parts & 15, parts >> 4], axis=1).reshape(-1, 32)


def _nibbles(values: _U8) -> _U8:
    """(groups, 32) values to 16 bytes a group: the first 16 below, the others above."""
    packed: _U8 = (values[:, :16] | values[:, 16:] << np.uint8(4)).astype(np.uint8)
    return packed.reshape(-1)


def _heads_q6_k(blocks: _U8) -> _U8:
    """84 bytes for 256 values: high bits by group, int8 scales, f16 d."""
    packed = blocks[:, 128:192].reshape(-1, 2, 1, 32)
    high = np.concatenate([(packed >> s) & 3 for s in (0, 2, 4, 6)], axis=2).reshape(-1, 2, 4, 4)
    words = high[:, :, 0] | high[:, :, 1] << 2 | high[:, :, 2] << 4 | high[:, :, 3] << 6
    heads = np.zeros((len(blocks), 84), np.uint8)
    heads[:, :64] = words.reshape(-1, 64)
    heads[:, 64:80] = blocks[:, 192:208]
    heads[:, 80:82] = blocks[:, 208:210]
    return heads.reshape(-1)
