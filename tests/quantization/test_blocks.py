"""The search for blocks: its twins agree, and its errors are smaller than plain rounding's."""

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize as their_dequantize
from gguf.quants import quantize as their_quantize

from understudy.kernels.formats import StorageType, dequantize, num_stored_bytes
from understudy.kernels.native import encode_blocks, kernel_names
from understudy.quantization.blocks import ENCODED, encode, encode_flat

ALL = pytest.mark.parametrize("kind", ENCODED, ids=lambda kind: kind.name)


def awkward(kind: StorageType, count: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Values and weights with zero, constant, one-sided and peaked groups, and inputs that hardly count."""
    rng = np.random.default_rng(int(kind))
    x = (rng.standard_normal(count) * scale).astype(np.float32)
    w = np.exp(2 * rng.standard_normal(count)).astype(np.float32)
    x[:256] = 0
    x[256:512], x[512:768] = scale, -scale / 2
    x[768:1024] = np.abs(x[768:1024])
    x[1024] *= 50
    w[1280:1536] = 1e-6
    return x, w


@ALL
@pytest.mark.parametrize("scale", [1e-5, 0.02, 30.0])
def test_every_twin_gives_the_same_bytes(kind: StorageType, scale: float) -> None:
    x, w = awkward(kind, 256 * 9, scale)
    expected = encode_flat(x, w, kind, by="numpy")
    assert expected.size == num_stored_bytes(kind, (1, x.size))
    for name in kernel_names():
        np.testing.assert_array_equal(encode_blocks(int(kind), x, w, kernels=name), expected, err_msg=name)


@ALL
def test_others_decode_the_same_values(kind: StorageType) -> None:
    values = (np.random.default_rng(1).standard_normal((8, 512)) * 0.05).astype(np.float32)
    raw = encode(values, kind)
    theirs = their_dequantize(raw.reshape(len(values), -1), gguf.GGMLQuantizationType(int(kind)))
    np.testing.assert_array_equal(dequantize(raw, kind, values.shape), theirs)


BITS = {
    StorageType.Q4_0: 3.6,
    StorageType.IQ4_XS: 3.75,
    StorageType.Q4_K: 3.83,
    StorageType.Q6_K: 5.9,
    StorageType.Q8_0: 7.7,
}


@ALL
def test_noise_of_normal_weights(kind: StorageType) -> None:
    """The effective bits, log2 of signal to noise, that the format can give; plain rounding stays below."""
    values = np.random.default_rng(2).standard_normal((64, 512)).astype(np.float32)
    noise = values - dequantize(encode(values, kind, spread=False), kind, values.shape)
    assert -0.5 * np.log2((noise**2).mean()) > BITS[kind]


@pytest.mark.parametrize("kind", [StorageType.Q4_0, StorageType.Q8_0])
def test_never_worse_than_rounding(kind: StorageType) -> None:
    values = np.random.default_rng(3).standard_t(3, (64, 256)).astype(np.float32)
    theirs = their_quantize(values, gguf.GGMLQuantizationType(int(kind))).reshape(-1)
    ours = encode(values, kind, spread=False)

    def errors(raw: np.ndarray) -> np.ndarray:
        return ((values - dequantize(raw, kind, values.shape)) ** 2).reshape(-1, 32).sum(1)

    assert (errors(ours) <= errors(theirs) * (1 + 1e-5)).all()
    assert errors(ours).sum() < 0.97 * errors(theirs).sum()


@ALL
def test_weights_draw_the_error_away_from_strong_inputs(kind: StorageType) -> None:
    rng = np.random.default_rng(4)
    values = rng.standard_normal((32, 512)).astype(np.float32)
    importance = np.where(rng.random(512) < 0.1, 30.0, 1.0)

    def output_error(raw: np.ndarray) -> float:
        return float((importance * (values - dequantize(raw, kind, values.shape)) ** 2).sum())

    assert output_error(encode(values, kind, importance)) < 0.97 * output_error(encode(values, kind))


@ALL
def test_a_silent_input_keeps_its_weights(kind: StorageType) -> None:
    """A neuron that never fired in calibration still has its rounded weights."""
    values = np.random.default_rng(5).standard_normal((4, 512)).astype(np.float32)
    importance = np.ones(512)
    importance[::7] = 0
    back = dequantize(encode(values, kind, importance), kind, values.shape)
    assert np.abs(back - values)[:, ::7].max() < 1.5
    assert np.corrcoef(back[:, ::7].reshape(-1), values[:, ::7].reshape(-1))[0, 1] > 0.97


def test_threads_and_slabs_do_not_show() -> None:
    values = np.random.default_rng(6).standard_normal((1500, 512)).astype(np.float32)
    importance = np.random.default_rng(7).random(512)
    whole = encode(values, StorageType.Q8_0, importance, num_threads=2)
    parts = [encode(values[i : i + 500], StorageType.Q8_0, importance, num_threads=1) for i in (0, 500, 1000)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))


@pytest.mark.parametrize(
    ("values", "importance", "message"),
    [
        (np.full((1, 256), np.nan), None, "not a number"),
        (np.full((1, 256), 1e6), None, "beyond"),
        (np.zeros((1, 96)), None, "blocks of 256"),
        (np.zeros((1, 256)), np.ones(255), "importance must be 256"),
        (np.zeros((1, 256)), np.full(256, -1.0), "from 0 up"),
    ],
)
def test_what_cannot_be_stored_is_refused(values: np.ndarray, importance: np.ndarray | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encode(values, StorageType.Q4_K, importance)
