"""Each native kernel against NumPy: every format, instruction set and odd size."""

import numpy as np
import numpy.typing as npt
import pytest

from understudy.kernels.formats import StorageType, dequantize, num_stored_bytes
from understudy.kernels.native import kernel_names, native_module
from understudy.kernels.reference import rounded_activations

pytestmark = pytest.mark.skipif(native_module() is None, reason="the native kernels are not built")

# Where halves of fp16 scales stand in a block.
_SCALES = {
    StorageType.Q4_0: (0,),
    StorageType.Q8_0: (0,),
    StorageType.Q4_K: (0, 2),
    StorageType.Q6_K: (208,),
    StorageType.IQ4_XS: (0,),
}


def random_weight(kind: StorageType, rows: int, cols: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Any bits at all, with scales of a sane size."""
    rng = np.random.default_rng(seed)
    if kind is StorageType.F32:
        return rng.normal(size=rows * cols).astype("<f4").view(np.uint8)
    if kind is StorageType.F16:
        return rng.normal(size=rows * cols).astype("<f2").view(np.uint8)
    if kind is StorageType.BF16:
        return (rng.normal(size=rows * cols).astype("<f4").view("<u4") >> 16).astype("<u2").view(np.uint8)
    blocks = rng.integers(0, 256, num_stored_bytes(kind, (rows, cols)), dtype=np.uint8).reshape(-1, kind.block_bytes)
    for at in _SCALES[kind]:
        blocks[:, at : at + 2] = rng.uniform(-0.01, 0.01, len(blocks)).astype("<f2").view(np.uint8).reshape(-1, 2)
    return blocks.reshape(-1)


def product(kind: StorageType, rows: int, cols: int, raw: npt.NDArray[np.uint8], x: npt.NDArray[np.float32], isa: str):
    native = native_module()
    assert native is not None
    return native.matmul(int(kind), rows, cols, raw, x, isa)


@pytest.mark.parametrize("isa", kernel_names())
@pytest.mark.parametrize("kind", list(StorageType))
@pytest.mark.parametrize("rows", [1, 16, 77])
@pytest.mark.parametrize("num_blocks", [1, 3, 9])
def test_matmul(kind: StorageType, isa: str, rows: int, num_blocks: int) -> None:
    cols = num_blocks * (kind.block_size if kind.block_size > 1 else 7)
    raw = random_weight(kind, rows, cols)
    x = np.random.default_rng(1).normal(size=(19, cols)).astype(np.float32)
    x[3] = 0
    x[4, 0] = 300  # an outlier
    expected = rounded_activations(x, kind).astype(np.float64) @ dequantize(raw, kind, (rows, cols)).T.astype(
        np.float64
    )
    got = product(kind, rows, cols, raw, x, isa)
    np.testing.assert_allclose(got, expected, atol=2e-6 * max(1.0, np.abs(expected).max()), rtol=2e-5)


@pytest.mark.parametrize("isa", kernel_names())
@pytest.mark.parametrize("kind", list(StorageType))
def test_a_row_is_the_same_whatever_shares_its_batch(kind: StorageType, isa: str) -> None:
    rows, cols = 150, 2304 if kind.block_size > 1 else 129  # longer than the batched kernel unpacks at once
    raw = random_weight(kind, rows, cols)
    x = np.random.default_rng(1).normal(size=(37, cols)).astype(np.float32)
    whole = product(kind, rows, cols, raw, x, isa)
    for size in (1, 2, 3, 4, 5, 13):
        parts = [product(kind, rows, cols, raw, x[i : i + size], isa) for i in range(0, len(x), size)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


_WITH_LINES = (StorageType.Q4_0, StorageType.Q8_0, StorageType.Q4_K, StorageType.IQ4_XS)


def sparse(rows: int, cols: int, zeros: float) -> npt.NDArray[np.float32]:
    """Squared ReLUs."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(rows, cols)).astype(np.float32) ** 2
    x[rng.uniform(size=x.shape) < zeros] = 0
    x[0, :300] = 0  # whole units, and a whole block of 256
    return x


@pytest.mark.parametrize("isa", kernel_names())
@pytest.mark.parametrize("kind", _WITH_LINES)
@pytest.mark.parametrize("rows", [1, 128, 333])
@pytest.mark.parametrize("num_blocks", [1, 3, 14])
@pytest.mark.parametrize("num_rows", [1, 7, 29])
def test_neuron_major(kind: StorageType, isa: str, rows: int, num_blocks: int, num_rows: int) -> None:
    cols = num_blocks * kind.block_size
    raw, x = random_weight(kind, rows, cols), sparse(num_rows, cols, 0.7)
    rounded = rounded_activations(x, kind, levels=255).astype(np.float64)
    expected = rounded @ dequantize(raw, kind, (rows, cols)).T.astype(np.float64)
    got = native_module().matmul(int(kind), rows, cols, raw, x, isa, is_neuron_major=True)  # type: ignore[union-attr]
    np.testing.assert_allclose(got, expected, atol=2e-6 * max(1.0, np.abs(expected).max()), rtol=2e-5)


@pytest.mark.parametrize("isa", kernel_names())
@pytest.mark.parametrize("kind", _WITH_LINES)
@pytest.mark.parametrize("zeros", [0.0, 0.5, 0.9, 1.0])
def test_skipping_zeros_changes_no_bit(kind: StorageType, isa: str, zeros: float) -> None:
    native = native_module()
    assert native is not None
    raw, x = random_weight(kind, 300, 3584), sparse(37, 3584, zeros)
    dense = native.matmul(int(kind), 300, 3584, raw, x, isa, is_neuron_major=True)  # unpacked, as a prompt is read
    for size in (1, 2, 3, 4, 5, 13):
        for skips in (True, False):
            parts = [
                native.matmul(int(kind), 300, 3584, raw, x[i : i + size], isa, is_neuron_major=True, skips_zeros=skips)
                for i in range(0, len(x), size)
            ]
            np.testing.assert_array_equal(np.concatenate(parts), dense)


def test_the_border_names_what_does_not_fit() -> None:
    x = np.ones((1, 32), np.float32)
    raw = random_weight(StorageType.Q4_0, 4, 32)
    for change in ({"rows": 5}, {"cols": 31}, {"kind": 3}, {"kernels": "sse9"}, {"source": raw[1:]}, {"rows": -4}):
        call = {"kind": 2, "rows": 4, "cols": 32, "source": raw, "x": x, "kernels": kernel_names()[0], **change}
        with pytest.raises(ValueError, match=r"\w"):
            native_module().matmul(**call)  # type: ignore[union-attr]
