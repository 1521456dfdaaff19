"""The values that a packed matrix can take while its scales stay as they are."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from understudy.errors import DataError
from understudy.kernels.formats import IQ4_LEVELS, StorageType, group_scales

__all__ = ["BlockGrid"]

_U8 = npt.NDArray[np.uint8]
_RANGES = {
    StorageType.Q4_0: (-8, 7),
    StorageType.Q8_0: (-127, 127),
    StorageType.Q4_K: (0, 15),
    StorageType.Q6_K: (-32, 31),
    StorageType.IQ4_XS: (0, 15),  # numbers of IQ4_LEVELS
}


class BlockGrid:
    """Value = step * level + offset, one step and offset for each group of neighbouring columns.

    Steps and offsets are those of a matrix that was packed before (by a range search, say), so every value of the grid
    can be stored exactly: `pack` exchanges the levels and leaves the scales.
    """

    def __init__(self, packed: _U8, kind: StorageType, shape: tuple[int, int]) -> None:
        """Read the scales of a packed matrix.

        Args:
            packed: its bytes.
            kind: Q4_0, Q8_0, Q4_K, Q6_K or IQ4_XS.
            shape: (rows, cols).

        Raises:
            DataError: a format without blocks.
        """
        if kind not in _RANGES:
            known = ", ".join(k.name for k in _RANGES)
            raise DataError(f"{kind.name} has no scales that could be kept; expected one of {known}.")
        self.kind, self.shape = kind, shape
        self._blocks = np.ascontiguousarray(packed).reshape(-1, kind.block_bytes)
        steps, offsets = group_scales(self._blocks, kind, shape)
        self._group = shape[1] // steps.shape[1]
        self._steps = torch.from_numpy(np.ascontiguousarray(steps.T))
        self._inverse = torch.where(self._steps == 0, 0, 1 / self._steps)
        self._offsets = None if offsets is None else torch.from_numpy(np.ascontiguousarray(offsets.T))
        table = torch.from_numpy(IQ4_LEVELS.astype(np.float32))
        self._table = table if kind is StorageType.IQ4_XS else None
        self._borders = (table[1:] + table[:-1]) / 2

    def round(self, column: int, values: Tensor) -> tuple[Tensor, Tensor]:
        """Round one column.

        Args:
            column: which.
            values: (rows,) float32.

        Returns:
            Levels (rows,) int16, and the values (rows,) float32 that they stand for.
        """
        group = column // self._group
        step, inverse = self._steps[group], self._inverse[group]
        offset = None if self._offsets is None else self._offsets[group]
        scaled = (values if offset is None else values - offset) * inverse
        if self._table is not None:
            levels = torch.bucketize(scaled, self._borders)
            rounded = self._table[levels] * step
        else:
            lowest, highest = _RANGES[self.kind]
            whole = scaled.round_().clamp_(lowest, highest)
            levels, rounded = whole, whole * step
        if offset is not None:
            rounded += offset
        return levels.to(torch.int16), rounded

    def pack(self, levels: Tensor) -> _U8:
        """Store levels with the grid's scales.

        Args:
            levels: (rows, cols) as `round` gives them.

        Returns:
            The bytes, as many as the grid was made from.
        """
        out = self._blocks.copy()
        lowest, _ = _RANGES[self.kind]
        found = levels.numpy().reshape(len(out), -1)
        unsigned = (found - (0 if self.kind is StorageType.Q8_0 else lowest)).astype(np.uint8)
        _PUT[self.kind](out, unsigned)
        return out.reshape(-1)


def _nibbles(levels: _U8, half: int) -> _U8:
    """Pairs of stretches of `half` values: the first below, the second above."""
    pairs = levels.reshape(len(levels), -1, 2, half)
    packed: _U8 = (pairs[:, :, 0] | pairs[:, :, 1] << np.uint8(4)).reshape(len(levels), -1)
    return packed


def _put_q4_0(blocks: _U8, levels: _U8) -> None:
    blocks[:, 2:] = _nibbles(levels, 16)


def _put_q8_0(blocks: _U8, levels: _U8) -> None:
    blocks[:, 2:] = levels


def _put_q4_k(blocks: _U8, levels: _U8) -> None:
    blocks[:, 16:] = _nibbles(levels, 32)


def _put_q6_k(blocks: _U8, levels: _U8) -> None:
    low: _U8 = levels & np.uint8(15)
    blocks[:, :128] = _nibbles(low, 64)
    planes = (levels >> 4).reshape(len(levels), 2, 4, 32)
    highs = planes[:, :, 0] | planes[:, :, 1] << 2 | planes[:, :, 2] << 4 | planes[:, :, 3] << 6
    blocks[:, 128:192] = highs.reshape(len(levels), 64)


def _put_iq4_xs(blocks: _U8, levels: _U8) -> None:
    blocks[:, 8:] = _nibbles(levels, 16)


_PUT: dict[StorageType, Callable[[_U8, _U8], None]] = {
    StorageType.Q4_0: _put_q4_0,
    StorageType.Q8_0: _put_q8_0,
    StorageType.Q4_K: _put_q4_k,
    StorageType.Q6_K: _put_q6_k,
    StorageType.IQ4_XS: _put_iq4_xs,
}
