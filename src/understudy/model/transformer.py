"""The model: Nemotron's forward pass in float32 NumPy."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Protocol

import numpy as np
import numpy.typing as npt

from understudy.errors import EngineError
from understudy.kernels.reference import causal_attention, layer_norm_1p, relu2, rope, rope_frequencies
from understudy.model.config import NemotronConfig
from understudy.model.kv_cache import KvCache
from understudy.model.memory import MemoryFigures
from understudy.model.weights import DenseLinear, Linear, StoredLinear, Weight

__all__ = ["ForwardStep", "ReferenceBackend", "check_step"]

_F32 = npt.NDArray[np.float32]
_MAX_DENSE_BYTES = 1_500_000_000


class ForwardStep(Protocol):
    """Work for one sequence; the engine's `Step` is one."""

    @property
    def cache(self) -> object:
        """A cache of this backend (`ReferenceBackend.new_cache`)."""
        ...

    @property
    def token_ids(self) -> Sequence[int]:
        """(T,) new tokens."""
        ...

    @property
    def num_logits(self) -> int:
        """How many of the last positions want logits."""
        ...


def check_step(step: ForwardStep, num_cached: int, config: NemotronConfig) -> None:
    """Refuse a step that no backend can run.

    Raises:
        EngineError: it is empty, a token id is not in the vocabulary, or the sequence would outgrow the context.
    """
    ids = step.token_ids
    size = len(ids)
    if size == 0 or not 0 <= step.num_logits <= size:
        raise EngineError(f"A step has {size} tokens and wants {step.num_logits} logits; expected at least one token.")
    if min(ids) < 0 or max(ids) >= config.vocab_size:
        raise EngineError(f"A token id is outside the vocabulary of {config.vocab_size}: {min(ids)} to {max(ids)}.")
    if num_cached + size > config.max_position_embeddings:
        raise EngineError(
            f"A sequence of {num_cached + size} tokens does not fit the context of {config.max_position_embeddings}."
        )


class _Norm:
    def __init__(self, weights: Mapping[str, Weight], name: str, eps: float) -> None:
        self.gain = weights[f"{name}.weight"].dense() + np.float32(1)
        self.bias = weights[f"{name}.bias"].dense()
        self.eps = eps

    def __call__(self, x: _F32) -> _F32:
        return layer_norm_1p(x, self.gain, self.bias, self.eps)


class _Layer:
    def __init__(self, weights: Mapping[str, Weight], index: int, eps: float, linear: type[DenseLinear | StoredLinear]):
        name = f"model.layers.{index}"
        self.attention_norm = _Norm(weights, f"{name}.input_layernorm", eps)
        self.qkv: Linear = linear([weights[f"{name}.self_attn.{p}_proj.weight"] for p in "qkv"])
        self.out: Linear = linear([weights[f"{name}.self_attn.o_proj.weight"]])
        self.mlp_norm = _Norm(weights, f"{name}.post_attention_layernorm", eps)
        self.up: Linear = linear([weights[f"{name}.mlp.up_proj.weight"]])
        self.down: Linear = linear([weights[f"{name}.mlp.down_proj.weight"]])


class ReferenceBackend:
    """Runs a model on the CPU with NumPy; the oracle of all other backends, and fast enough for small models.

    Weights are unpacked to float32 once where that takes at most 1.5 GB, and otherwise at each use.
    """

    name = "reference"

    def __init__(
        self, config: NemotronConfig, weights: Mapping[str, Weight], *, max_dense_bytes: int = _MAX_DENSE_BYTES
    ) -> None:
        self.config = config
        linear = DenseLinear if config.num_parameters * 4 <= max_dense_bytes else StoredLinear
        self._embedding = weights["model.embed_tokens.weight"]
        self._layers = [_Layer(weights, i, config.norm_eps, linear) for i in range(config.num_hidden_layers)]
        self._norm = _Norm(weights, "model.norm", config.norm_eps)
        self._head: Linear = linear([self._embedding if config.tie_word_embeddings else weights["lm_head.weight"]])
        self._frequencies = rope_frequencies(config.rotary_dim, config.rope_theta)

    def new_cache(self) -> KvCache:
        """An empty cache for one sequence."""
        return KvCache(self.config)

    @property
    def draft_tokens(self) -> int:
        """A draft's tokens cost NumPy nearly as much as others."""
        return 0

    @property
    def block_tokens(self) -> int:
        """Tokens by which a cache grows."""
        return 1

    def num_free_tokens(self) -> None:
        """Only the machine's memory ends the caches."""

    @property
    def kv_format(self) -> str:
        """What the bytes of a page mean."""
        return "reference-f32-1"

    @property
    def page_bytes(self) -> int:
        """Bytes of a page, which is one token's keys and values."""
        return self.memory().cache_bytes_per_token

    @property
    def page_value_bytes(self) -> int:
        """Bytes of one key or value in a page."""
        return 4

    def read_pages(self, cache: object, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """(P, page_bytes) keys and values of a stretch of tokens, for `write_pages`."""
        kept = self._own(cache)
        both = np.stack([kept.keys[:, :, start:stop], kept.values[:, :, start:stop]])  # (2, layers, K, P, H)
        return np.ascontiguousarray(np.moveaxis(both, 3, 0)).reshape(stop - start, -1).view(np.uint8)

    def write_pages(self, cache: object, start: int, pages: npt.NDArray[np.uint8]) -> None:
        """Put pages where `read_pages` took them from, into a cache with room for them."""
        kept = self._own(cache)
        layers, heads, _, size = kept.keys.shape
        both = np.moveaxis(pages.view(np.float32).reshape(len(pages), 2, layers, heads, size), 0, 3)
        kept.keys[:, :, start : start + len(pages)], kept.values[:, :, start : start + len(pages)] = both

    def forward(self, batch: Sequence[ForwardStep]) -> list[_F32]:
        """Run one step of every sequence; each gets bit for bit the logits that it would get alone.

        Returns:
            For each sequence logits of shape (num_logits, V).

        Raises:
            EngineError: a sequence would outgrow the context, a token id is not in the vocabulary, or a step is empty.
        """
        x, spans = self._layer_outputs(batch)
        last = np.concatenate([x[s.stop - step.num_logits : s.stop] for s, step in zip(spans, batch, strict=True)])
        spans = _spans([step.num_logits for step in batch])
        logits = self._head(self._norm(last), spans)
        return [logits[s] for s in spans]

    def hidden_states(self, batch: Sequence[ForwardStep]) -> list[_F32]:
        """Run one step; for each sequence (T, D), what the head would read of its new tokens.

        Raises:
            EngineError: as of `forward`.
        """
        x, spans = self._layer_outputs(batch)
        return [self._norm(x[s]) for s in spans]

    def _layer_outputs(self, batch: Sequence[ForwardStep]) -> tuple[_F32, list[slice]]:
        """What the layers make of all new tokens, and which rows are whose."""
        caches = [self._checked_cache(step) for step in batch]
        sizes = [len(step.token_ids) for step in batch]
        spans = _spans(sizes)
        positions = np.concatenate([np.arange(c.length, c.length + t) for c, t in zip(caches, sizes, strict=True)])
        angles = np.outer(positions.astype(np.float32), self._frequencies)
        cos, sin = np.cos(angles), np.sin(angles)
        x = self._embedding.rows(np.concatenate([np.asarray(step.token_ids) for step in batch]))
        for index, layer in enumerate(self._layers):
            qkv = layer.qkv(layer.attention_norm(x), spans)
            mixed = [self._attention(qkv[s], cos[s], sin[s], c, index) for s, c in zip(spans, caches, strict=True)]
            x += layer.out(mixed[0] if len(mixed) == 1 else np.concatenate(mixed), spans)
            x += layer.down(relu2(layer.up(layer.mlp_norm(x), spans)), spans)
        for cache, size in zip(caches, sizes, strict=True):
            cache.advance(size)
        return x, spans

    def _attention(self, qkv: _F32, cos: _F32, sin: _F32, cache: KvCache, layer: int) -> _F32:
        n, k, h = self.config.num_attention_heads, self.config.num_key_value_heads, self.config.head_dim
        start, stop = cache.length, cache.length + len(qkv)
        heads = qkv.reshape(len(qkv), n + 2 * k, h)
        rope(heads[:, : n + k], cos, sin)
        keys, values = cache.keys[layer, :, :stop], cache.values[layer, :, :stop]
        keys[:, start:] = heads[:, n : n + k].transpose(1, 0, 2)
        values[:, start:] = heads[:, n + k :].transpose(1, 0, 2)
        return causal_attention(heads[:, :n], keys, values)

    def _own(self, cache: object) -> KvCache:
        if not isinstance(cache, KvCache):
            raise EngineError(
                f"The reference backend got a foreign cache ({type(cache).__name__}); use its new_cache()."
            )
        return cache

    def _checked_cache(self, step: ForwardStep) -> KvCache:
        cache = self._own(step.cache)
        check_step(step, cache.length, self.config)
        cache.reserve(cache.length + len(step.token_ids))
        return cache

    def memory(self) -> MemoryFigures:
        """Bytes held now."""
        linears = [m for layer in self._layers for m in (layer.qkv, layer.out, layer.up, layer.down)]
        head_mapped = 0 if self.config.tie_word_embeddings else self._head.mapped_bytes
        per_token = self.config.num_hidden_layers * self.config.num_key_value_heads * self.config.head_dim * 2 * 4
        return MemoryFigures(
            weight_bytes=sum(m.dense_bytes for m in linears) + self._head.dense_bytes,
            mapped_bytes=sum(m.mapped_bytes for m in linears) + head_mapped + self._embedding.num_bytes,
            cache_bytes_per_token=per_token,
        )


def _spans(sizes: Sequence[int]) -> list[slice]:
    return [slice(end - size, end) for end, size in zip(accumulate(sizes), sizes, strict=True)]
