"""Rows of the input table, a few at a time and in little time."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from understudy.kernels.formats import StorageType, dequantize
from understudy.model.weights import Weight

__all__ = ["InputTable"]

_F32 = npt.NDArray[np.float32]
_MAX_KEPT = 256
_DTYPES: dict[StorageType, str] = {StorageType.F32: "<f4", StorageType.F16: "<f2"}


class InputTable:
    """A table that stays in its file, and those of its rows that were asked for last.

    Unpacking a row of 3072 takes NumPy 30 microseconds, and a conversation's tokens come back.
    """

    def __init__(self, table: Weight) -> None:
        """Look at a table of (V, D)."""
        self._kind, self._cols = table.kind, table.shape[1]
        self._stored = table.raw.reshape(table.shape[0], -1)
        dtype = _DTYPES.get(table.kind)
        self._plain = None if dtype is None else self._stored.view(np.dtype(dtype))
        self._kept: dict[int, _F32] = {}

    def copy_rows(self, ids: Sequence[int], target: _F32) -> None:
        """Copy the rows of tokens.

        Args:
            ids: (T,) of the vocabulary.
            target: (T or more, D or more) float32; only its first T rows and D columns are written.
        """
        cols = self._cols
        for n, token in enumerate(ids):
            target[n, :cols] = self._row(token) if self._plain is None else self._plain[token]

    def _row(self, token: int) -> _F32:
        row = self._kept.pop(token, None)
        if row is None:
            row = dequantize(self._stored[token], self._kind, (self._cols,))
            if len(self._kept) >= _MAX_KEPT:
                del self._kept[next(iter(self._kept))]
        self._kept[token] = row
        return row
