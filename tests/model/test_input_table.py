"""Rows of the input table are those that the file holds, kept or not."""

import numpy as np
import pytest

from understudy.kernels.formats import StorageType, num_stored_bytes
from understudy.model.input_table import InputTable
from understudy.model.weights import Weight


@pytest.mark.parametrize("kind", [k for k in StorageType if k is not StorageType.Q4_0], ids=str)
def test_rows(kind: StorageType) -> None:
    shape, rng = (300, 256), np.random.default_rng(0)
    cells = rng.integers(0, 128, num_stored_bytes(kind, shape), np.uint8) & 0x3B  # no infinities, no NaNs
    weight = Weight(cells, kind, shape)
    table, target = InputTable(weight), np.full((4, 288), 7, np.float32)
    everything = weight.dense()
    for ids in ([5, 299, 5], list(range(4)), [0], *([n, 0, 5] for n in range(300))):  # more than are kept
        table.copy_rows(ids, target)
        np.testing.assert_array_equal(target[: len(ids), :256], everything[ids])
    assert (target[:, 256:] == 7).all()
