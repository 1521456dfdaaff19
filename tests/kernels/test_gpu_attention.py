"""Rope, cache and attention on the GPU against NumPy."""

import numpy as np
import pytest

from understudy.kernels.gpu_attention import (
    AttentionShape,
    attention,
    cache_block_bytes,
    pieces_bytes,
    turns,
)
from understudy.kernels.gpu_bindings import bind_pass
from understudy.kernels.gpu_device import GpuDevice
from understudy.kernels.gpu_matmul import PassLayout, padded
from understudy.kernels.reference import causal_attention, rope, rope_frequencies

pytestmark = pytest.mark.gpu

LAYOUT = PassLayout(max_tokens=16, max_items=64, max_rows=4, max_blocks=32)


def on_gpu(device: GpuDevice, shape: AttentionShape, qkv: np.ndarray, sizes: list[int]) -> np.ndarray:
    """Attention of a whole sequence that comes in pieces of these sizes, over blocks in any order."""
    num_heads, width = shape.num_heads + shape.num_kv_heads, padded(qkv.shape[1])
    table = np.random.default_rng(0).permutation(30)
    mixed_at = 16 * width
    pieces_at = mixed_at + 16 * padded(shape.num_heads * shape.head_dim)
    buffers = {
        "cache": device.buffer(cache_block_bytes(shape) * 30, "cache"),
        "turns": device.upload(turns(shape, 10000.0, 900), "turns"),
        "work": device.buffer(pieces_at * 4 + pieces_bytes(shape, LAYOUT), "work"),
        "words": device.buffer(LAYOUT.num_words * 4, "words"),
        "weights": device.buffer(512, "weights"),
        "logits": device.buffer(16, "logits"),
    }
    bound = bind_pass(device, **buffers)
    runs = attention(device, bound, shape, LAYOUT, qkv_at=0, pieces_at=pieces_at, mixed_at=mixed_at)
    at, found = 0, []
    for size in sizes:
        positions = range(at, at + size)
        items = [(i, piece) for i, p in enumerate(positions) for piece in range(p // 256 + 1)]
        words, places = np.zeros(LAYOUT.num_words, np.uint32), LAYOUT.places
        words[:2] = size, len(items)
        words[places["POSITIONS_AT"] :][:size] = positions
        words[places["TABLES_AT"] :][:size] = places["BLOCKS_AT"]
        words[places["FIRST_ITEMS_AT"] :][:size] = [items.index((i, 0)) for i in range(size)]
        words[places["ITEMS_AT"] :][: 2 * len(items)] = np.ravel(items)
        words[places["BLOCKS_AT"] :][:30] = table
        device.write(buffers["words"], words)
        wide = np.zeros((size, width), np.float32)
        wide[:, : qkv.shape[1]] = qkv[at : at + size]
        device.write(buffers["work"], wide)
        grids = ((size, num_heads), (len(items), shape.num_kv_heads), (size, shape.num_heads))
        device.submit(device.schedule(list(zip(runs, grids, strict=True))))
        mixed = device.read(buffers["work"]).view(np.float32)[mixed_at:pieces_at].reshape(16, -1)
        found.append(mixed[:size, : shape.num_heads * shape.head_dim])
        at += size
    return np.concatenate(found)


def check(device: GpuDevice, heads: tuple[int, int, int, int], kv_bits: int, *, length: int) -> None:
    n, k, h, rotary = heads
    shape = AttentionShape(num_heads=n, num_kv_heads=k, head_dim=h, rotary_dim=rotary, kv_bits=kv_bits)
    qkv = np.random.default_rng(1).normal(size=(length, (n + 2 * k) * h)).astype(np.float32)
    sizes = [16] * (length // 16) + [length % 16 or 1, 1][: int(length % 16 > 0)]
    got = on_gpu(device, shape, qkv, sizes)
    parts = qkv.reshape(length, n + 2 * k, h).copy()
    angles = np.outer(np.arange(length, dtype=np.float32), rope_frequencies(rotary, 10000.0))
    rope(parts[:, : n + k], np.cos(angles), np.sin(angles))
    keys, values = parts[:, n : n + k].transpose(1, 0, 2).copy(), parts[:, n + k :].transpose(1, 0, 2).copy()
    expected = causal_attention(parts[:, :n], keys, values)
    np.testing.assert_allclose(got, expected, atol=0.004 if kv_bits == 16 else 0.05)
    if kv_bits == 16:  # the same cut otherwise: not a bit differs
        np.testing.assert_array_equal(on_gpu(device, shape, qkv[:40], [1] * 8 + [15, 16, 1]), got[:40])


@pytest.mark.parametrize("kv_bits", [8, 16])
def test_attention(device: GpuDevice, kv_bits: int) -> None:
    check(device, (3, 1, 48, 12), kv_bits, length=291)


@pytest.mark.slow
@pytest.mark.parametrize("kv_bits", [8, 16])
@pytest.mark.parametrize("heads", [(4, 2, 16, 8), (24, 8, 128, 64), (2, 2, 256, 256), (8, 1, 4, 2), (6, 2, 20, 10)])
def test_attention_in_full(device: GpuDevice, heads: tuple[int, int, int, int], kv_bits: int) -> None:
    check(device, heads, kv_bits, length=771)


def test_what_no_kernel_does_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        AttentionShape(num_heads=1, num_kv_heads=1, head_dim=6, rotary_dim=2, kv_bits=8)
