"""Packed formats, against the `gguf` package."""

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize as their_dequantize
from gguf.quants import quantize as their_quantize

from understudy.kernels.formats import StorageType, dequantize, num_stored_bytes, quantize


def random_bytes(kind: StorageType, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Random blocks whose half-precision scales are finite."""
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 256, num_stored_bytes(kind, shape), dtype=np.uint8)
    blocks = raw.reshape(-1, kind.block_bytes)
    scale_at = {StorageType.Q6_K: [208], StorageType.Q4_K: [0, 2]}.get(kind, [0])
    for at in scale_at if kind.block_size > 1 else []:
        blocks[:, at : at + 2] = rng.normal(0, 0.1, (len(blocks), 1)).astype(np.float16).view(np.uint8)
    if kind is StorageType.F16:
        raw = rng.normal(0, 1, shape).astype(np.float16).reshape(-1).view(np.uint8)
    if kind in (StorageType.F32, StorageType.BF16):
        values = rng.normal(0, 1, shape).astype(np.float32).view(np.uint32)
        raw = (values if kind is StorageType.F32 else (values >> 16).astype(np.uint16)).reshape(-1).view(np.uint8)
    return raw


@pytest.mark.parametrize("kind", list(StorageType))
@pytest.mark.parametrize("shape", [(1, 256), (7, 512), (64, 768)])
def test_dequantize_is_exact(kind: StorageType, shape: tuple[int, int]) -> None:
    raw = random_bytes(kind, shape, shape[0])
    theirs = their_dequantize(raw.reshape(shape[0], -1), gguf.GGMLQuantizationType(int(kind)))
    np.testing.assert_array_equal(dequantize(raw, kind, shape), theirs.reshape(shape))


@pytest.mark.parametrize("kind", [StorageType.F32, StorageType.F16, StorageType.Q8_0])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_quantize_gives_the_same_bytes(kind: StorageType, scale: float) -> None:
    values = (np.random.default_rng(3).standard_normal((33, 96)) * scale).astype(np.float32)
    values[5] = 0
    theirs = their_quantize(values, gguf.GGMLQuantizationType(int(kind)))
    np.testing.assert_array_equal(quantize(values, kind), theirs.reshape(-1).view(np.uint8))


def test_q8_0_error_is_at_most_half_a_step() -> None:
    values = np.random.default_rng(0).standard_normal((64, 256)).astype(np.float32)
    back = dequantize(quantize(values, StorageType.Q8_0), StorageType.Q8_0, values.shape)
    steps = np.abs(values.reshape(-1, 32)).max(1) / 127
    assert (np.abs(back - values).reshape(-1, 32).max(1) <= steps * (0.5 + 127 * 2**-11 + 1e-3)).all()


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        (np.full((1, 32), np.nan, np.float32), StorageType.F16, "not a number"),
        (np.full((1, 32), 1e6, np.float32), StorageType.F16, "beyond"),
        (np.full((1, 32), 1e9, np.float32), StorageType.Q8_0, "beyond"),
        (np.zeros((1, 33), np.float32), StorageType.Q8_0, "blocks of 32"),
        (np.zeros((1, 32), np.float32), StorageType.Q4_0, "not supported"),
    ],
)
def test_what_cannot_be_stored_is_refused(values: np.ndarray, kind: StorageType, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quantize(values, kind)
