"""Weights as the GPU reads them: nothing is lost, and sizes are as told."""

import numpy as np
import pytest

from understudy.kernels.formats import StorageType, num_stored_bytes
from understudy.kernels.gpu_formats import gpu_bytes, gpu_layout


@pytest.mark.parametrize("kind", list(StorageType))
def test_sizes(kind: StorageType) -> None:
    rows, cols = 5, 3 * max(kind.block_size, 11)
    raw = np.random.default_rng(0).integers(0, 256, num_stored_bytes(kind, (rows, cols)), np.uint8)
    levels, scales = gpu_layout(raw, kind, rows, cols)
    planned = gpu_bytes(kind, rows, cols)
    assert levels.size == planned[0]
    assert 0 <= planned[1] - scales.size < 16


def test_blocks_cost_no_more_than_in_the_file() -> None:
    for kind in (StorageType.Q4_K, StorageType.Q4_0, StorageType.Q8_0, StorageType.Q6_K, StorageType.IQ4_XS):
        spare = 1.01 if kind is StorageType.Q6_K else 1
        assert sum(gpu_bytes(kind, 64, 3072)) <= num_stored_bytes(kind, (64, 3072)) * spare
