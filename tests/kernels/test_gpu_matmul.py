"""GPU multiplication against NumPy: every format, variant and odd size."""

import itertools

import numpy as np
import pytest

from understudy.kernels.formats import StorageType, dequantize, num_stored_bytes
from understudy.kernels.gpu_bindings import bind_pass
from understudy.kernels.gpu_device import GpuDevice
from understudy.kernels.gpu_formats import INTEGER_TYPES
from understudy.kernels.gpu_matmul import MatrixStore, PassLayout, Variant, Way, matmul, padded, store_bytes, token_tile
from understudy.kernels.reference import layer_norm_1p, relu2, rounded_activations

pytestmark = pytest.mark.gpu

LAYOUT = PassLayout(max_tokens=16, max_items=16, max_rows=16, max_blocks=16)
VARIANTS = (Variant(), Variant(has_subgroups=True), Variant(has_dp4a=True), Variant(has_subgroups=True, has_dp4a=True))
SCALES = {StorageType.Q4_0: (0,), StorageType.Q8_0: (0,), StorageType.Q4_K: (0, 2), StorageType.Q6_K: (208,),
          StorageType.IQ4_XS: (0,)}  # fmt: skip


def random_weight(kind: StorageType, rows: int, cols: int) -> np.ndarray:
    """Any bits at all, with scales of a sane size."""
    rng = np.random.default_rng(rows)
    if kind not in INTEGER_TYPES:
        values = rng.normal(size=rows * cols).astype("<f4")
        cells = values.astype("<f2") if kind is StorageType.F16 else (values.view("<u4") >> 16).astype("<u2")
        return (values if kind is StorageType.F32 else cells).view(np.uint8)
    blocks = rng.integers(0, 256, num_stored_bytes(kind, (rows, cols)), np.uint8).reshape(-1, kind.block_bytes)
    for at in SCALES[kind]:
        blocks[:, at : at + 2] = rng.uniform(-0.01, 0.01, len(blocks)).astype("<f2").view(np.uint8).reshape(-1, 2)
    return blocks.reshape(-1)


def run(
    device: GpuDevice, kind: StorageType, rows: int, cols: int, x: np.ndarray, *, variant: Variant, tokens: int,
    norm: np.ndarray | None = None, y: float = 0, **options,
) -> np.ndarray:  # fmt: skip
    """The product, as a GPU computes it; another matrix of the store lies before the one in question."""
    is_head = options.get("is_head", False)
    width, stride = len(x) * padded(cols), rows if is_head else padded(rows)
    sizes = [(StorageType.F32, 3, 5, True), (kind, rows, cols, norm is not None)]
    store = MatrixStore(device, store_bytes(sizes), "weights")
    way = Way(x_at=32, y_at=width + 64, y_stride=stride, **options)
    other = random_weight(StorageType.F32, 3, 5)
    store.add([other], StorageType.F32, [3], 5, way, norm=np.ones((2, 32), np.float32))
    half = rows // 2  # two matrices as one
    raw = random_weight(kind, rows, cols).reshape(rows, -1)
    matrix = store.add(
        [raw[:half].reshape(-1), raw[half:].reshape(-1)], kind, [half, rows - half], cols, way, norm=norm
    )
    work = np.full(width + 64 + len(x) * padded(rows), y, np.float32)
    work[32 : 32 + width] = 0
    work[32 : 32 + width].reshape(len(x), -1)[:, :cols] = x
    words = np.zeros(LAYOUT.num_words, np.uint32)
    words[0] = words[2] = len(x)
    words[LAYOUT.places["WANTED_AT"] :][: len(x)] = np.arange(len(x))[::-1]
    buffers = {"work": device.upload(work, "work"), "logits": device.buffer(len(x) * rows * 4, "logits")}
    cache, turns = device.buffer(16, "cache"), device.buffer(16, "turns")
    told = device.upload(words, "words")
    bound = bind_pass(device, weights=store.weights, cache=cache, words=told, turns=turns, **buffers)
    made = matmul(device, bound, matrix, LAYOUT, variant=variant, tokens=tokens)
    device.submit(device.schedule([made.run(len(x))]))
    if is_head:
        return device.read(buffers["logits"], len(x) * rows * 4).view(np.float32).reshape(len(x), rows)
    return device.read(buffers["work"]).view(np.float32)[width + 64 :][: len(x) * stride].reshape(len(x), -1)[:, :rows]


def check(device: GpuDevice, kind: StorageType, variant: Variant, tokens: int, sizes) -> None:
    weights_of = {}
    for rows, num_blocks, count in sizes:
        cols = num_blocks * (kind.block_size if kind.block_size > 1 else 37)
        x = np.random.default_rng(cols).normal(size=(count, cols)).astype(np.float32)
        x[0, :1] = 30  # an outlier
        weights_of[rows] = dequantize(random_weight(kind, rows, cols), kind, (rows, cols)).astype(np.float64)
        rounded = rounded_activations(x, kind) if variant.has_dp4a else x
        expected = rounded.astype(np.float64) @ weights_of[rows].T
        got = run(device, kind, rows, cols, x, variant=variant, tokens=tokens)
        np.testing.assert_allclose(got, expected, atol=2e-6 * np.abs(expected).max())


def skip_without(device: GpuDevice, variant: Variant) -> None:
    if variant.has_subgroups and "subgroup" not in device.adapter.features:
        pytest.skip("the adapter has no subgroups")


@pytest.mark.parametrize(
    ("kind", "variant"),
    [(StorageType.Q4_K, VARIANTS[0]), (StorageType.Q6_K, VARIANTS[3]), (StorageType.IQ4_XS, VARIANTS[2])],
    ids=str,
)
def test_matmul(device: GpuDevice, kind: StorageType, variant: Variant) -> None:
    skip_without(device, variant)
    check(device, kind, variant, 1, [(5, 1, 1), (77, 9, 3)])


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "variant"), list(itertools.product(StorageType, VARIANTS)), ids=str)
def test_matmul_in_full(device: GpuDevice, kind: StorageType, variant: Variant) -> None:
    skip_without(device, variant)
    for tokens in (1, token_tile(device.adapter)):
        check(device, kind, variant, tokens, [(5, 1, 1), (77, 9, 3), (8, 3, 11), (130, 4, 7)])


@pytest.mark.parametrize("kind", [StorageType.F16])
def test_norm_before_and_squares_or_sums_behind(device: GpuDevice, kind: StorageType) -> None:
    rows, cols = 21, 333
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, size=(3, cols)).astype(np.float32)
    gain, bias = rng.normal(size=(2, cols)).astype(np.float32)
    both = np.zeros((2, padded(cols)), np.float32)
    both[:, :cols] = gain, bias
    weight = dequantize(random_weight(kind, rows, cols), kind, (rows, cols))
    plain = layer_norm_1p(x.copy(), gain, bias, 1e-5) @ weight.T
    for tokens in (1, token_tile(device.adapter)):
        options = {"variant": Variant(), "tokens": tokens, "norm": both, "eps": 1e-5}
        got = run(device, kind, rows, cols, x, is_head=True, **options)
        np.testing.assert_allclose(got, plain[::-1], atol=2e-5 * np.abs(plain).max())
        got = run(device, kind, rows, cols, x, output="relu2", **options)
        np.testing.assert_allclose(got, relu2(plain.copy()), atol=4e-5 * np.abs(plain).max() ** 2)
        got = run(device, kind, rows, cols, x, output="add", y=2, **options)
        np.testing.assert_allclose(got, plain + 2, atol=2e-5 * np.abs(plain).max())


def test_a_row_is_the_same_whatever_shares_its_batch(device: GpuDevice) -> None:
    x = np.random.default_rng(1).normal(size=(7, 333)).astype(np.float32)
    tile = token_tile(device.adapter)
    whole = run(device, StorageType.F16, 77, 333, x, variant=Variant(), tokens=tile)
    for row in range(7):
        alone = run(device, StorageType.F16, 77, 333, x[row : row + 1], variant=Variant(), tokens=1)
        np.testing.assert_array_equal(alone[0], whole[row])


def test_activations_lie_in_whole_vectors() -> None:
    for place in ({"x_at": 2}, {"y_at": 6}, {"y_stride": 37}, {"y_offset": 1}):
        with pytest.raises(ValueError, match="vectors of 4"):
            Way(**{"x_at": 0, "y_at": 0, "y_stride": 64, **place})
    assert Way(x_at=0, y_at=0, y_stride=37, y_offset=1, is_head=True).is_head
