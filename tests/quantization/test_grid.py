"""Grids of fixed scales, against the decoder."""

import numpy as np
import pytest
import torch

from understudy.errors import DataError
from understudy.kernels.formats import StorageType, dequantize
from understudy.quantization.blocks import ENCODED, encode
from understudy.quantization.grid import BlockGrid

SHAPE = (5, 512)


def matrix(seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32)
    values[2, 256:] = 0  # a block whose scales are zero
    return values


@pytest.mark.parametrize("kind", ENCODED)
def test_what_was_rounded_is_what_is_decoded(kind: StorageType) -> None:
    packed = encode(matrix(), kind)
    grid = BlockGrid(packed, kind, SHAPE)
    wanted = torch.from_numpy(matrix(1))
    columns = [grid.round(column, wanted[:, column].clone()) for column in range(SHAPE[1])]
    levels, values = (torch.stack(list(parts), dim=1) for parts in zip(*columns, strict=True))
    again = grid.pack(levels)
    assert again.size == packed.size
    np.testing.assert_array_equal(dequantize(again, kind, SHAPE), values.numpy())


@pytest.mark.parametrize("kind", ENCODED)
def test_a_value_of_the_grid_stays(kind: StorageType) -> None:
    packed = encode(matrix(), kind)
    held = dequantize(packed, kind, SHAPE)
    grid = BlockGrid(packed, kind, SHAPE)
    for column in range(0, SHAPE[1], 7):
        _, values = grid.round(column, torch.from_numpy(held[:, column].copy()))
        np.testing.assert_array_equal(values.numpy(), held[:, column])


@pytest.mark.parametrize("kind", ENCODED)
def test_the_nearest_value_is_taken(kind: StorageType) -> None:
    packed = encode(matrix(), kind)
    grid = BlockGrid(packed, kind, SHAPE)
    wanted = torch.linspace(-3, 3, SHAPE[0])
    _, taken = grid.round(40, wanted.clone())
    candidates = torch.stack([grid.round(40, torch.full((SHAPE[0],), v))[1] for v in np.linspace(-9, 9, 4001)])
    nearest = (candidates - wanted).abs().min(dim=0).values
    torch.testing.assert_close((taken - wanted).abs(), nearest, atol=1e-6, rtol=0)


def test_a_float_format_has_no_grid() -> None:
    with pytest.raises(DataError, match="F16 has no scales"):
        BlockGrid(np.zeros(64, np.uint8), StorageType.F16, (1, 32))
