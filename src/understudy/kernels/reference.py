"""The model's operations in NumPy: the oracle that every faster kernel is measured against.

Letters: T query tokens, S cached tokens (the T new ones included), N query heads, K KV heads, H head size, D hidden.
"""

import numpy as np
import numpy.typing as npt

from understudy.kernels.formats import StorageType

__all__ = ["causal_attention", "layer_norm_1p", "relu2", "rope", "rope_frequencies", "rounded_activations"]

_F32 = npt.NDArray[np.float32]

_QUERY_BLOCK = 256
"""Queries whose scores are held at once; bounds the score matrix of a long prompt."""


def rounded_activations(x: _F32, kind: StorageType, *, levels: int = 127) -> _F32:
    """What the native kernels multiply quantized weights by: activations rounded to 8 bits in groups of 256.

    The scale is max|x| / levels; halves round to even. Float formats take x as it is.

    Args:
        x: (T, C); the last group may be shorter.
        kind: format of the weights.
        levels: 127, or 255 for squared ReLUs, which are never negative.
    """
    if kind in (StorageType.F32, StorageType.F16, StorageType.BF16):
        return x
    groups = np.pad(x, ((0, 0), (0, -x.shape[1] % 256))).reshape(len(x), -1, 256)
    peak = np.abs(groups).max(axis=2, keepdims=True)
    inverse = np.divide(np.float32(levels), peak, where=peak > 0, out=np.zeros_like(peak))
    rounded: _F32 = (np.rint(groups * inverse) * (peak / np.float32(levels))).reshape(len(x), -1)[:, : x.shape[1]]
    return rounded


def layer_norm_1p(x: _F32, gain: _F32, bias: _F32, eps: float) -> _F32:
    """Normalize each row: `(x - mean) / sqrt(variance + eps) * gain + bias`.

    Args:
        x: (T, D).
        gain: (D,) the stored weight with 1 already added.
        bias: (D,).
        eps: added to the variance.
    """
    size = np.float32(x.shape[-1])
    total: _F32 = np.add.reduce(x, axis=-1, keepdims=True)
    centred = x - total / size
    variance = np.vecdot(centred, centred)[:, None] / size
    centred *= gain / np.sqrt(variance + np.float32(eps))
    centred += bias
    return centred


def relu2(x: _F32) -> _F32:
    """Squared ReLU: `max(x, 0) ** 2`; the array is overwritten and returned."""
    np.maximum(x, 0, out=x)
    np.multiply(x, x, out=x)
    return x


def rope_frequencies(rotary_dim: int, theta: float) -> _F32:
    """Radians that a position turns each pair by: `theta ** (-2 i / rotary_dim)`, (rotary_dim / 2,)."""
    exponents = np.arange(0, rotary_dim, 2, dtype=np.float32) / np.float32(rotary_dim)
    frequencies: _F32 = np.float32(1) / np.float32(theta) ** exponents
    return frequencies


def rope(x: _F32, cos: _F32, sin: _F32) -> None:
    """Turn the leading dimensions of each head in place, rotate-half pairing (i, i + half).

    Args:
        x: (T, heads, H).
        cos: (T, half) for the positions of the T tokens; 2 * half <= H.
        sin: (T, half).
    """
    half = cos.shape[-1]
    cos, sin = cos[:, None], sin[:, None]
    first, second = x[..., :half], x[..., half : 2 * half]
    turned = first * cos - second * sin
    second *= cos
    second += first * sin
    first[...] = turned


def causal_attention(q: _F32, keys: _F32, values: _F32) -> _F32:
    """Attention of the last T positions over all S.

    Args:
        q: (T, N, H), turned by rope.
        keys: (K, S, H), turned by rope; query head n reads KV head n // (N / K).
        values: (K, S, H).

    Returns:
        (T, N * H).
    """
    num_tokens, num_heads, head_dim = q.shape
    num_kv_heads, num_cached, _ = keys.shape
    out = np.empty((num_tokens, num_kv_heads, num_heads // num_kv_heads, head_dim), np.float32)
    scaled = (q * np.float32(head_dim**-0.5)).reshape(out.shape)
    for start in range(0, num_tokens, _QUERY_BLOCK):
        block = scaled[start : start + _QUERY_BLOCK].transpose(1, 2, 0, 3)  # (K, N/K, T, H)
        seen = num_cached - num_tokens + start + block.shape[2]
        out[start : start + _QUERY_BLOCK] = _attend(block, keys[:, :seen], values[:, :seen]).transpose(2, 0, 1, 3)
    return out.reshape(num_tokens, num_heads * head_dim)


def _attend(q: _F32, keys: _F32, values: _F32) -> _F32:
    num_kv_heads, group, num_tokens, head_dim = q.shape
    num_cached = keys.shape[1]
    scores: _F32 = q.reshape(num_kv_heads, group * num_tokens, head_dim) @ keys.transpose(0, 2, 1)
    if num_tokens > 1:
        hidden = np.triu(np.full((num_tokens, num_tokens), -np.inf, np.float32), 1)
        scores.reshape(num_kv_heads, group, num_tokens, num_cached)[..., num_cached - num_tokens :] += hidden
    scores -= np.maximum.reduce(scores, axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    total = np.add.reduce(scores, axis=-1, keepdims=True)
    mixed: _F32 = scores @ values
    mixed /= total
    return mixed.reshape(num_kv_heads, group, num_tokens, head_dim)
