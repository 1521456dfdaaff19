"""Stored matrices."""

import numpy as np
import pytest

from understudy.kernels.formats import StorageType, quantize
from understudy.model import weights
from understudy.model.weights import DenseLinear, StoredLinear, Weight

RNG = np.random.default_rng(2)


def stored(kind: StorageType, shape: tuple[int, int]) -> Weight:
    return Weight(quantize(RNG.standard_normal(shape).astype(np.float32), kind), kind, shape)


@pytest.mark.parametrize("kind", [StorageType.F32, StorageType.F16, StorageType.Q8_0])
def test_rows_and_products_agree_with_the_dense_matrix(kind: StorageType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_SLAB_VALUES", 200)
    weight = stored(kind, (50, 64))
    x = RNG.standard_normal((7, 64)).astype(np.float32)
    np.testing.assert_array_equal(weight.rows([3, 3, 49]), weight.dense()[[3, 3, 49]])
    np.testing.assert_allclose(weight.matmul(x), x @ weight.dense().T, atol=1e-4)


def test_dense_and_stored_linears_agree() -> None:
    parts = [stored(StorageType.F16, (9, 16)), stored(StorageType.F16, (4, 16))]
    x = RNG.standard_normal((6, 16)).astype(np.float32)
    spans = [slice(0, 1), slice(1, 5), slice(5, 6)]
    dense, lazy = DenseLinear(parts), StoredLinear(parts)
    assert dense(x, spans).shape == (6, 13)
    np.testing.assert_allclose(dense(x, spans), lazy(x, spans), atol=1e-5)
    np.testing.assert_array_equal(dense(x, spans)[1:5], dense(x[1:5], [slice(0, 4)]))
    assert (dense.dense_bytes, dense.mapped_bytes, lazy.dense_bytes, lazy.mapped_bytes) == (13 * 64, 0, 0, 13 * 32)
