"""A stored matrix, and multiplication by it."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from understudy.kernels.formats import StorageType, dequantize, num_stored_bytes

__all__ = ["DenseLinear", "Linear", "StoredLinear", "Weight"]

_F32 = npt.NDArray[np.float32]

_SLAB_VALUES = (64 << 20) // 4
"""Values that a stored matrix unpacks at a time: 64 MiB of float32."""


@dataclasses.dataclass(frozen=True, eq=False)
class Weight:
    """A tensor as its file stores it.

    Attributes:
        raw: (bytes,) uint8, usually a memory-mapped stretch of the file.
        kind: how the bytes hold values.
        shape: (rows, cols), or (size,) for a norm's vectors.
    """

    raw: npt.NDArray[np.uint8]
    kind: StorageType
    shape: tuple[int, ...]

    @classmethod
    def from_array(cls, values: npt.NDArray[np.floating]) -> "Weight":
        """Hold an array of any float type as F32."""
        data = np.ascontiguousarray(values, dtype="<f4")
        return cls(data.reshape(-1).view(np.uint8), StorageType.F32, values.shape)

    @property
    def num_bytes(self) -> int:
        """Bytes stored."""
        return self.raw.size

    def dense(self) -> _F32:
        """All values, float32, of shape `shape`."""
        return dequantize(self.raw, self.kind, self.shape)

    def rows(self, ids: npt.ArrayLike) -> _F32:
        """Rows of a matrix: (T,) indices to (T, cols) float32."""
        table = self.raw.reshape(self.shape[0], -1)
        picked = table[np.asarray(ids)]
        return dequantize(picked, self.kind, (len(picked), self.shape[1]))

    def matmul(self, x: _F32, spans: Sequence[slice] = (slice(None),)) -> _F32:
        """Multiply (T, cols) by the transposed matrix to (T, rows), unpacking at most 64 MiB at a time.

        Args:
            x: (T, cols).
            spans: stretches of rows, all of them in order, that are multiplied each on its own (see `Linear`).
        """
        num_rows, num_cols = self.shape
        out = np.empty((len(x), num_rows), np.float32)
        step = max(1, _SLAB_VALUES // num_cols)
        row_bytes = num_stored_bytes(self.kind, (num_cols,))
        for start in range(0, num_rows, step):
            stop = min(start + step, num_rows)
            slab = dequantize(self.raw[start * row_bytes : stop * row_bytes], self.kind, (stop - start, num_cols))
            for span in spans:
                np.matmul(x[span], slab.T, out=out[span, start:stop])
        return out


class Linear(Protocol):
    """One or several stored matrices over the same input, results side by side.

    A call gets the rows of all sequences and the span of each. Each span is multiplied on its own, because the rounding
    of BLAS depends on the number of rows: so a sequence's numbers never depend on who shares its batch. For the few
    rows of a decoding batch that is the faster way, too.
    """

    @property
    def dense_bytes(self) -> int:
        """Bytes of unpacked copies held in memory."""
        ...

    @property
    def mapped_bytes(self) -> int:
        """Bytes used from the file at each call."""
        ...

    def __call__(self, x: _F32, spans: Sequence[slice]) -> _F32:
        """Multiply (T, cols) to (T, rows)."""
        ...


class DenseLinear:
    """Matrices unpacked once and stacked: fast, four bytes a weight."""

    def __init__(self, weights: Sequence[Weight]) -> None:
        self.matrix = weights[0].dense() if len(weights) == 1 else np.concatenate([w.dense() for w in weights])
        self.dense_bytes = self.matrix.nbytes
        self.mapped_bytes = 0

    def __call__(self, x: _F32, spans: Sequence[slice]) -> _F32:
        """Multiply (T, cols) to (T, rows)."""
        if len(spans) == 1:
            return x @ self.matrix.T
        out = np.empty((len(x), len(self.matrix)), np.float32)
        for span in spans:
            np.matmul(x[span], self.matrix.T, out=out[span])
        return out


class StoredLinear:
    """Matrices left in their file and unpacked at each use: slow, no memory of their own."""

    def __init__(self, weights: Sequence[Weight]) -> None:
        self.weights = tuple(weights)
        self.dense_bytes = 0
        self.mapped_bytes = sum(w.num_bytes for w in weights)

    def __call__(self, x: _F32, spans: Sequence[slice]) -> _F32:
        """Multiply (T, cols) to (T, rows)."""
        return np.concatenate([w.matmul(x, spans) for w in self.weights], axis=1)
