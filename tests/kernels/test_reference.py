"""The oracle against formulas written out with loops and float64."""

import math

import numpy as np
import pytest

from understudy.kernels.reference import causal_attention, layer_norm_1p, relu2, rope, rope_frequencies

RNG = np.random.default_rng(0)


def test_layer_norm_1p() -> None:
    x, gain, bias = (RNG.standard_normal(s).astype(np.float32) for s in ((5, 24), 24, 24))
    wide = x.astype(np.float64)
    expected = (wide - wide.mean(1, keepdims=True)) / np.sqrt(wide.var(1, keepdims=True) + 1e-3) * gain + bias
    np.testing.assert_allclose(layer_norm_1p(x, gain, bias, 1e-3), expected, atol=1e-5)


def test_relu2() -> None:
    assert relu2(np.array([-2.0, 0.0, 3.0], np.float32)).tolist() == [0, 0, 9]


def test_rope_turns_pairs_and_leaves_the_rest() -> None:
    x = RNG.standard_normal((3, 2, 10)).astype(np.float32)
    positions, theta, rotary = [0, 5, 70], 100.0, 6
    angles = np.outer(np.array(positions, np.float32), rope_frequencies(rotary, theta))
    turned = x.copy()
    rope(turned, np.cos(angles), np.sin(angles))
    for t, position in enumerate(positions):
        for i in range(3):
            angle = position * theta ** (-2 * i / rotary)
            a, b = x[t, :, i], x[t, :, i + 3]
            np.testing.assert_allclose(turned[t, :, i], a * math.cos(angle) - b * math.sin(angle), atol=1e-4)
            np.testing.assert_allclose(turned[t, :, i + 3], b * math.cos(angle) + a * math.sin(angle), atol=1e-4)
    np.testing.assert_array_equal(turned[..., 6:], x[..., 6:])


@pytest.mark.parametrize(("num_tokens", "num_cached"), [(1, 1), (1, 9), (4, 4), (3, 8), (300, 520)])
@pytest.mark.parametrize(("num_heads", "num_kv_heads"), [(4, 4), (6, 2), (3, 1)])
def test_attention(num_tokens: int, num_cached: int, num_heads: int, num_kv_heads: int) -> None:
    size = 8
    q = RNG.standard_normal((num_tokens, num_heads, size)).astype(np.float32)
    keys, values = (RNG.standard_normal((num_kv_heads, num_cached, size)).astype(np.float32) for _ in range(2))
    out = causal_attention(q, keys, values).reshape(num_tokens, num_heads, size)
    for t in {0, num_tokens // 2, num_tokens - 1}:
        seen = num_cached - num_tokens + t + 1
        for n in range(num_heads):
            k = n // (num_heads // num_kv_heads)
            scores = keys[k, :seen].astype(np.float64) @ q[t, n] / math.sqrt(size)
            shares = np.exp(scores - scores.max())
            np.testing.assert_allclose(out[t, n], shares / shares.sum() @ values[k, :seen], atol=1e-5)
