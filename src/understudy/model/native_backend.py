"""The model on the CPU by compiled kernels."""

import copy
import dataclasses
import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from understudy.errors import EngineError
from understudy.kernels.native import MISSING_MEND, native_module
from understudy.model.blocks import BlockCache, BlockPool
from understudy.model.config import NemotronConfig
from understudy.model.mapped_file import drop_pages
from understudy.model.memory import MemoryFigures
from understudy.model.transformer import ForwardStep, check_step
from understudy.model.weights import Weight

__all__ = ["CpuBackend", "CpuFlight", "why_not_native"]

_F32 = npt.NDArray[np.float32]
_SLOTS = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
_SMALL_CACHE_BYTES = 64 << 20
_CACHE_BYTES = 1 << 30
_CACHED_WEIGHT_BYTES = 256 << 20
_MIN_CACHED_CONTEXTS = 4


@dataclasses.dataclass(frozen=True)
class _Text:
    """A step that wants no logits."""

    cache: BlockCache
    token_ids: Sequence[int]
    num_logits: int = 0


def why_not_native(config: NemotronConfig) -> str | None:
    """Why the compiled kernels cannot run a model; None if they can."""
    if native_module() is None:
        return MISSING_MEND
    if config.head_dim % 16:
        return f"the native kernels need a head_dim that is a multiple of 16, this model's is {config.head_dim}"
    return None


class CpuBackend:
    """Runs a model with the native kernels; weights are copied from their file into the kernels' own layout.

    A sequence's logits are the same bit for bit alone or in a batch, and however its tokens are cut into steps.
    """

    def __init__(
        self,
        config: NemotronConfig,
        weights: Mapping[str, Weight],
        *,
        num_threads: int | None = None,
        kernels: str = "",
        kv_bits: int | None = None,
        cache_bytes: int | None = None,
        skip_zeros: bool = True,
    ) -> None:
        """Copy the weights.

        Args:
            config: shape.
            weights: all tensors; they are not needed afterwards, but for the input table, which stays in its file.
            num_threads: threads in a step; None for every core that this process may use.
            kernels: an instruction set of `kernel_names()`; "" for the best.
            kv_bits: bits of a cached value, 8 or 16; None takes 16 where a whole context stays below 64 MiB.
            cache_bytes: budget of all sequences' keys and values; None for 1 GiB, or four contexts if that is more.
            skip_zeros: do not read the weights of neurons that are zero; the logits are the same bit for bit.

        Raises:
            EngineError: the native kernels are missing or cannot run this shape.
        """
        native: Any = native_module()
        if reason := why_not_native(config):
            raise EngineError(f"The cpu backend cannot run this model: {reason}.")
        self.config = config
        shape = native.ModelShape(
            num_layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            mlp=config.intermediate_size,
            vocab=config.vocab_size,
            num_heads=config.num_attention_heads,
            num_kv_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            rotary_dim=config.rotary_dim,
            rope_theta=config.rope_theta,
            norm_eps=config.norm_eps,
        )
        self._model = native.Model(shape, num_threads or _num_cores(), kernels)
        self._model.set_skip_zeros(skip_zeros)
        self._load(weights)
        values = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
        if kv_bits is None:
            kv_bits = 16 if 2 * values * config.max_position_embeddings <= _SMALL_CACHE_BYTES else 8
        if kv_bits not in (8, 16):
            raise EngineError(f"kv_bits must be 8 or 16, got {kv_bits}.")
        self._shape, self.kv_bits, self._cache_bytes = shape, kv_bits, cache_bytes
        self._launcher: Any = None
        self._open_pool()

    def _open_pool(self) -> None:
        """Room for keys and values, empty."""
        native: Any = native_module()
        context, is_8bit = self.config.max_position_embeddings, self.kv_bits == 8
        one = native.KvPool(self._shape, 1, is_8bit).block_bytes
        context_blocks = -(-context // native.BLOCK_TOKENS)
        num_blocks = max(_MIN_CACHED_CONTEXTS * context_blocks, _CACHE_BYTES // one)
        if self._cache_bytes is not None:
            num_blocks = max(1, self._cache_bytes // one)
        self._pool = native.KvPool(self._shape, num_blocks, is_8bit)
        self._block_bytes: int = one
        self._blocks = BlockPool(num_blocks, native.BLOCK_TOKENS, self._pool.copy_block)

    def adapted(self, pairs: Mapping[str, tuple[_F32, _F32]]) -> Self:
        """The same model with LoRA beside its matrices, y = W x + B (A x): weights are shared, keys and values not.

        Both may be used at a time, from a thread each.

        Args:
            pairs: A (rank, inputs) and B (outputs, rank), scaled, by the name of the matrix.

        Raises:
            KeyError: the model has no such matrix that may be adapted.
        """
        native: Any = native_module()
        num_layers = self.config.num_hidden_layers
        places = {f"model.layers.{n}.{slot}.weight": (n, i) for n in range(num_layers) for i, slot in enumerate(_SLOTS)}
        places["lm_head.weight"] = (num_layers, 0)
        other = copy.copy(self)
        other._model, other._launcher = native.Model(self._model, self._model.num_threads), None
        for name, (a, b) in pairs.items():
            other._model.set_adapter(*places[name], np.ascontiguousarray(a), np.ascontiguousarray(b))
        other._open_pool()
        return other

    @property
    def name(self) -> str:
        """'cpu' and the instruction set."""
        return f"cpu ({self._model.kernels}, {self._model.num_threads} threads)"

    def _load(self, weights: Mapping[str, Weight]) -> None:
        # The largest first: while it is read it takes memory twice, and there is the most room for that.
        self._embedding = weights["model.embed_tokens.weight"]
        head = self._embedding if self.config.tie_word_embeddings else weights["lm_head.weight"]
        self._model.set_head(int(head.kind), *head.shape, _bytes(head))
        drop_pages(head.raw)
        for layer in range(self.config.num_hidden_layers):
            prefix = f"model.layers.{layer}"
            for slot, name in enumerate(_SLOTS):
                weight = weights[f"{prefix}.{name}.weight"]
                self._model.set_matrix(layer, slot, int(weight.kind), *weight.shape, _bytes(weight))
                drop_pages(weight.raw)
            for which, name in enumerate(("input_layernorm", "post_attention_layernorm")):
                self._model.set_norm(layer, which, *_norm(weights, f"{prefix}.{name}"))
        self._model.set_norm(self.config.num_hidden_layers, 0, *_norm(weights, "model.norm"))

    def new_cache(self) -> BlockCache:
        """An empty cache for one sequence; it takes blocks as it grows, and gives them back when it is dropped."""
        return BlockCache(self._blocks)

    @property
    def draft_tokens(self) -> int:
        """A few tokens more in a step cost little where weights come from main memory, their share where from cache."""
        return 3 if self._model.weight_bytes > _CACHED_WEIGHT_BYTES else 0

    @property
    def block_tokens(self) -> int:
        """Tokens by which a cache grows."""
        return self._blocks.block_tokens

    @property
    def block_pool(self) -> BlockPool:
        """Where all caches' blocks come from."""
        return self._blocks

    def num_free_tokens(self) -> int:
        """Tokens that all caches together may still grow by."""
        return self._blocks.num_free * self._blocks.block_tokens

    @property
    def kv_format(self) -> str:
        """What the bytes of a page mean; another instruction set may round the last bit otherwise."""
        return f"cpu-{self._model.kernels}-{self.kv_bits}bit-{self._blocks.block_tokens}-1"

    @property
    def page_bytes(self) -> int:
        """Bytes of a page, which is a block of every layer."""
        return self._block_bytes

    @property
    def page_value_bytes(self) -> int:
        """Bytes of one key or value in a page."""
        return 1 if self.kv_bits == 8 else 2

    def read_pages(self, cache: object, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """(P, page_bytes) keys and values of a stretch of tokens, for `write_pages`."""
        size = self._blocks.block_tokens
        blocks = self._own(cache).blocks[start // size : -(-stop // size)]
        pages = np.empty((len(blocks), self._block_bytes), np.uint8)
        for page, block in zip(pages, blocks, strict=True):
            page[:] = self._pool.read_block(block)
        if stop % size:
            self._clear(pages[-1], stop % size)
        return pages

    def write_pages(self, cache: object, start: int, pages: npt.NDArray[np.uint8]) -> None:
        """Put pages where `read_pages` took them from, into a cache with room for them."""
        first = start // self._blocks.block_tokens
        for block, page in zip(self._own(cache).blocks[first : first + len(pages)], pages, strict=True):
            self._pool.write_block(block, page)

    def _clear(self, page: npt.NDArray[np.uint8], num_used: int) -> None:
        """Zero what lies behind the last token: an earlier owner of the block may have left it there."""
        size, dim, width = self._blocks.block_tokens, self.config.head_dim, self.kv_bits // 8
        heads = page.reshape(self.config.num_hidden_layers * self.config.num_key_value_heads, -1)
        keys, values = heads[:, : size * dim * width], heads[:, size * dim * width : 2 * size * dim * width]
        if self.kv_bits == 16:  # (H, tokens), (tokens, H)
            keys.reshape(-1, dim, size, width)[:, :, num_used:] = 0
            values.reshape(-1, size, dim, width)[:, num_used:] = 0
        else:  # (H / 4, tokens, 4), (tokens / 4, H, 4), and a scale a token
            keys.reshape(-1, dim // 4, size, 4)[:, :, num_used:] = 0
            by_token = values.reshape(-1, size // 4, dim, 4).transpose(0, 1, 3, 2)
            for token in range(num_used, size):
                by_token[:, token // 4, token % 4] = 0
            heads[:, 2 * size * dim :].reshape(-1, 2, size, 4)[:, :, num_used:] = 0

    def forward(self, batch: Sequence[ForwardStep]) -> list[_F32]:
        """Run one step of every sequence.

        Returns:
            For each sequence logits of shape (num_logits, V).

        Raises:
            EngineError: a sequence would outgrow the context or the cache's budget, a token id is not in the
                vocabulary, or a step is empty.
        """
        return self._run(batch, [step.num_logits for step in batch])

    def hidden_states(self, batch: Sequence[ForwardStep]) -> list[_F32]:
        """Run one step; for each sequence (T, D), what the head would read of its new tokens.

        Raises:
            EngineError: as of `forward`.
        """
        return self._run(batch, [len(step.token_ids) for step in batch], is_hidden=True)

    def launch(self, batch: Sequence[ForwardStep]) -> "CpuFlight":
        """Begin a step; `land` waits for its end. Steps of other sequences may be launched before that.

        Raises:
            EngineError: as of `forward`.
        """
        if self._launcher is None:
            native: Any = native_module()
            self._launcher = native.Launcher(self._model)
        caches, sizes, pasts, x = self._prepare(batch)
        wanted = [step.num_logits for step in batch]
        flight = self._launcher.launch(self._pool, x, *self._arrays(caches, pasts, sizes, wanted))
        return CpuFlight(flight, caches, sizes, wanted)

    def _run(self, batch: Sequence[ForwardStep], wanted: Sequence[int], *, is_hidden: bool = False) -> list[_F32]:
        caches, sizes, pasts, x = self._prepare(batch)
        rows = self.forward_rows(x, caches, pasts, sizes, wanted, is_hidden=is_hidden)
        for cache, size in zip(caches, sizes, strict=True):
            cache.advance(size)
        return rows

    def _prepare(self, batch: Sequence[ForwardStep]) -> tuple[list[BlockCache], list[int], list[int], _F32]:
        """Check a batch and make room; caches, new tokens and past ones of each sequence, rows of the input table."""
        caches = [self._checked_cache(step) for step in batch]
        sizes = [len(step.token_ids) for step in batch]
        pasts = [cache.length for cache in caches]
        for cache, past, size in zip(caches, pasts, sizes, strict=True):
            cache.reserve(past + size)
        x = self._embedding.rows(np.array(list(itertools.chain.from_iterable(step.token_ids for step in batch))))
        return caches, sizes, pasts, np.ascontiguousarray(x, np.float32)

    def forward_rows(
        self,
        x: _F32,
        caches: Sequence[BlockCache],
        pasts: Sequence[int],
        sizes: Sequence[int],
        wanted: Sequence[int],
        *,
        is_hidden: bool = False,
    ) -> list[_F32]:
        """Run all layers on rows that stand for tokens: of the input table, or what layers elsewhere made of them.

        Args:
            x: (tokens of all sequences, D).
            caches: with room reserved; the caller counts what is written.
            pasts: tokens cached before, of each sequence.
            sizes: tokens of each sequence, at least one.
            wanted: rows of results for the last tokens of each.
            is_hidden: give what the head would read instead of logits.

        Returns:
            For each sequence logits of shape (wanted, V), or hidden states of shape (wanted, D).
        """
        arrays = self._arrays(caches, pasts, sizes, wanted)
        rows: _F32 = self._model.forward(self._pool, np.ascontiguousarray(x), *arrays, is_hidden)
        return _split(rows, wanted)

    def _arrays(
        self, caches: Sequence[BlockCache], pasts: Sequence[int], sizes: Sequence[int], wanted: Sequence[int]
    ) -> tuple[npt.NDArray[np.int32], ...]:
        """What the kernels are told of a batch."""
        block_tokens = self._blocks.block_tokens
        used: list[int] = []
        for cache, past, size in zip(caches, pasts, sizes, strict=True):
            used += cache.blocks[: -(-(past + size) // block_tokens)]
        return tuple(np.asarray(numbers, np.int32) for numbers in (pasts, sizes, wanted, used))

    def _own(self, cache: object) -> BlockCache:
        if not isinstance(cache, BlockCache) or cache.pool is not self._blocks:
            raise EngineError(f"The cpu backend got a foreign cache ({type(cache).__name__}); use its new_cache().")
        return cache

    def _checked_cache(self, step: ForwardStep) -> BlockCache:
        cache = self._own(step.cache)
        check_step(step, cache.length, self.config)
        return cache

    def zero_shares(self, token_ids: Sequence[int]) -> tuple[float, ...]:
        """The census of zero neurons: for each layer the share of squared ReLUs that are zero over a text.

        Args:
            token_ids: the text, at most a context long. Other sequences may not run meanwhile.

        Raises:
            EngineError: the text is empty, too long, or no room is left for it.
        """
        self._model.set_census(True)
        try:
            self.forward([_Text(self.new_cache(), token_ids)])
            return tuple(zeros / max(1, total) for total, zeros in self._model.census())
        finally:
            self._model.set_census(False)

    def memory(self) -> MemoryFigures:
        """Bytes held now."""
        return MemoryFigures(
            weight_bytes=self._model.weight_bytes,
            mapped_bytes=self._embedding.num_bytes,
            cache_bytes_per_token=self._block_bytes // self._blocks.block_tokens,
        )


class CpuFlight:
    """A step under way."""

    def __init__(self, flight: Any, caches: Sequence[BlockCache], sizes: Sequence[int], wanted: Sequence[int]) -> None:
        self._flight, self._caches, self._sizes, self._wanted = flight, caches, sizes, wanted

    def land(self) -> list[_F32]:
        """Wait for its end, and count the tokens as cached; for each sequence logits of shape (num_logits, V)."""
        rows: _F32 = self._flight.land()
        for cache, size in zip(self._caches, self._sizes, strict=True):
            cache.advance(size)
        return _split(rows, self._wanted)

    def settle(self) -> None:
        """Wait for its end."""
        self._flight.settle()


def _split(rows: _F32, wanted: Sequence[int]) -> list[_F32]:
    ends = itertools.accumulate(wanted)
    return [rows[end - num : end] for end, num in zip(ends, wanted, strict=True)]


def _num_cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1


def _bytes(weight: Weight) -> npt.NDArray[np.uint8]:
    """A weight's bytes in a row."""
    return np.ascontiguousarray(weight.raw).reshape(-1)


def _norm(weights: Mapping[str, Weight], name: str) -> tuple[_F32, _F32]:
    return weights[f"{name}.weight"].dense() + np.float32(1), weights[f"{name}.bias"].dense()
