"""Attention on the GPU over keys and values in blocks of 32 tokens."""

import dataclasses

import numpy as np
import numpy.typing as npt

from understudy.kernels.gpu_bindings import PASS_BINDINGS
from understudy.kernels.gpu_device import Bound, Dispatch, GpuDevice
from understudy.kernels.gpu_matmul import PassLayout, padded
from understudy.kernels.reference import rope_frequencies

__all__ = [
    "BLOCK_TOKENS",
    "MAX_HEAD_DIM",
    "PIECE_TOKENS",
    "AttentionShape",
    "attention",
    "cache_block_bytes",
    "clear_behind",
    "pieces_bytes",
    "turns",
]

BLOCK_TOKENS = 32
PIECE_TOKENS = 256
MAX_HEAD_DIM = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionShape:
    """Heads and cache.

    Attributes:
        num_heads: of queries (N).
        num_kv_heads: of keys and values (K).
        head_dim: values in a head (H), a multiple of 4 up to 256.
        rotary_dim: of these, that rope turns.
        kv_bits: of a cached value, 8 or 16.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    rotary_dim: int
    kv_bits: int

    def __post_init__(self) -> None:
        if self.head_dim % 4 or not 4 <= self.head_dim <= MAX_HEAD_DIM or self.kv_bits not in (8, 16):
            raise ValueError(f"head_dim must be a multiple of 4 up to {MAX_HEAD_DIM}, kv_bits 8 or 16: got {self}.")


def cache_block_bytes(shape: AttentionShape) -> int:
    """Bytes of a block of one layer: keys, values, and at 8 bits 4 bytes of scales a token and head."""
    a_token = 2 * shape.head_dim * shape.kv_bits // 8 + (4 if shape.kv_bits == 8 else 0)
    return BLOCK_TOKENS * shape.num_kv_heads * a_token


def clear_behind(shape: AttentionShape, block: npt.NDArray[np.uint8], num_used: int) -> None:
    """Zero what lies behind the last token in a block of one layer: an earlier owner may have left it there.

    Args:
        shape: heads and cache.
        block: (`cache_block_bytes`,) laid out as `wgsl/rope.wgsl` says.
        num_used: tokens that stay.
    """
    heads = block.view(np.uint32).reshape(shape.num_kv_heads, -1)
    side = BLOCK_TOKENS * shape.head_dim * shape.kv_bits // 32
    heads[:, :side].reshape(shape.num_kv_heads, -1, BLOCK_TOKENS)[:, :, num_used:] = 0
    heads[:, side : 2 * side].reshape(shape.num_kv_heads, BLOCK_TOKENS, -1)[:, num_used:] = 0
    if shape.kv_bits == 8:
        heads[:, 2 * side :][:, num_used:] = 0


def pieces_bytes(shape: AttentionShape, layout: PassLayout) -> int:
    """Bytes of a pass's unfinished attention."""
    return layout.max_items * shape.num_heads * (shape.head_dim + 4) * 4


def turns(shape: AttentionShape, theta: float, num_positions: int) -> npt.NDArray[np.float32]:
    """Cosine and sine of every position and pair: (positions, rotary_dim / 2, 2)."""
    angles = np.outer(np.arange(num_positions, dtype=np.float32), rope_frequencies(shape.rotary_dim, theta))
    return np.stack([np.cos(angles), np.sin(angles)], axis=2)


def attention(
    device: GpuDevice,
    bound: Bound,
    shape: AttentionShape,
    layout: PassLayout,
    *,
    qkv_at: int,
    pieces_at: int,
    mixed_at: int,
) -> tuple[Dispatch, Dispatch, Dispatch]:
    """Prepare rope and the cache's filling, split attention, and its putting together.

    Their workgroups: (tokens, N + K), (items, K), (tokens, N). Places are floats in the buffer of activations,
    multiples of 4.

    Args:
        device: where all of it is.
        bound: a layer's cache and all else that `bind_pass` ties to it.
        shape: heads and cache.
        layout: of the pass's words.
        qkv_at: (T, padded((N + 2 K) H)) queries, keys and values side by side; queries are turned in place.
        pieces_at: `pieces_bytes`.
        mixed_at: (T, padded(N H)) the result.
    """
    heads = {"N": shape.num_heads, "K": shape.num_kv_heads, "H": shape.head_dim}
    constants: dict[str, int | float] = {
        **heads,
        "HALF": shape.rotary_dim // 2,
        "QKV_AT": qkv_at // 4,
        "QKV_STRIDE": padded((shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim) // 4,
        "PIECES_AT": pieces_at // 4,
        "OUT_AT": mixed_at // 4,
        "OUT_STRIDE": padded(shape.num_heads * shape.head_dim) // 4,
        "SCORE_SCALE": float(shape.head_dim**-0.5),
        **{name: at for name, at in layout.places.items() if name != "BLOCKS_AT"},  # the same for any cache
    }
    bits = f"{shape.kv_bits}bit"
    parts = (("rope", f"write_{bits}", "rope"), ("attention", f"cache_{bits}", "attention"), ("combine", "combine"))
    rope, split, combine = (
        device.dispatch(device.kernel(label, ("bindings", *pieces), constants, kinds=PASS_BINDINGS), bound)
        for label, *pieces in parts
    )
    return rope, split, combine
