"""The model on a graphics adapter, whoever made it; layers that do not fit run on the CPU."""

import dataclasses
import functools
import itertools
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from understudy.errors import DeviceLostError, EngineError, GpuError
from understudy.kernels.gpu_adapters import Adapter
from understudy.kernels.gpu_attention import BLOCK_TOKENS, MAX_HEAD_DIM, PIECE_TOKENS
from understudy.kernels.gpu_device import GpuDevice
from understudy.kernels.gpu_matmul import Variant
from understudy.model.blocks import BlockPool
from understudy.model.config import NemotronConfig
from understudy.model.gpu_limits import GpuLimits, Pace
from understudy.model.memory import MemoryFigures
from understudy.model.native_backend import CpuBackend
from understudy.model.transformer import ForwardStep, check_step
from understudy.model.weights import Weight
from understudy.model.wgpu_cache import GpuCache
from understudy.model.wgpu_model import GpuModel, Pass
from understudy.model.wgpu_plan import GpuPlan, plan_gpu

__all__ = ["WgpuBackend"]

_F32 = npt.NDArray[np.float32]
_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class _Piece(NamedTuple):
    """Some tokens of a step."""

    step: int
    start: int
    stop: int


class WgpuBackend:
    """Runs a model on one adapter; a sequence's logits are the same bit for bit alone or in a batch.

    A lost device is opened again, and sequences are read again when they are next asked for.
    """

    def __init__(
        self,
        config: NemotronConfig,
        weights: Mapping[str, Weight],
        adapter: Adapter,
        *,
        variant: Variant | None = None,
        limits: GpuLimits | None = None,
        kv_bits: int | None = None,
        cache_tokens: int | None = None,
    ) -> None:
        """Plan, then copy the weights to the GPU.

        Args:
            config: shape.
            weights: all tensors; kept, for a device may get lost. The input table stays in its file.
            adapter: where to.
            variant: abilities that the kernels use; None for none but the core's.
            limits: memory, time and rate; None for none but the default length of a submission.
            kv_bits: bits of a cached value, 8 or 16; None takes 16 where a whole context stays below 64 MiB.
            cache_tokens: of all sequences together; None for four contexts, or one where there is a budget.

        Raises:
            GpuMemoryError: not one layer fits the budget, or the GPU has less memory than that.
            GpuError: the adapter cannot run the model.
        """
        if config.head_dim % 4 or config.head_dim > MAX_HEAD_DIM:
            raise GpuError(
                f"The wgpu backend needs a head_dim that is a multiple of 4 up to {MAX_HEAD_DIM}, this model's is "
                f"{config.head_dim}; use --backend cpu."
            )
        self.config = config
        self._limits = limits or GpuLimits()
        self._pace = Pace(self._limits)
        self.adapter = adapter
        self.variant = variant or Variant()
        self.plan, self._layout = plan_gpu(
            config,
            {name: weight.kind for name, weight in weights.items()},
            {name: weight.shape for name, weight in weights.items()},
            budget_bytes=self._limits.memory_bytes,
            kv_bits=kv_bits,
            cache_tokens=cache_tokens,
            max_store_bytes=adapter.max_binding_bytes,
        )
        self._weights = weights
        self._lock = threading.Lock()
        self._embedding = weights["model.embed_tokens.weight"]
        self._rest = None if self.plan.has_head else _rest_on_cpu(config, weights, self.plan)
        self._open()

    @property
    def name(self) -> str:
        """'wgpu', the adapter, and what the CPU helps with."""
        shared = "" if self._rest is None else f", {self.plan.num_gpu_layers} of {self.plan.num_layers} layers"
        return f"wgpu ({self.adapter}, {self.variant}{shared})"

    @property
    def draft_tokens(self) -> int:
        """A draft's tokens ride along with a batch's tile."""
        return 3

    @property
    def block_tokens(self) -> int:
        """Tokens by which a cache grows."""
        return BLOCK_TOKENS if self._rest is None else max(BLOCK_TOKENS, self._rest.block_tokens)

    def new_cache(self) -> GpuCache:
        """An empty cache for one sequence."""
        return GpuCache(self._home)

    def num_free_tokens(self) -> int:
        """Tokens that all caches together may still grow by."""
        return min(pool.num_free * pool.block_tokens for pool in self._home)

    def memory(self) -> MemoryFigures:
        """Bytes held now: weights on the GPU and, of layers that did not fit, in the machine's memory."""
        rest = self._rest.memory() if self._rest else None
        return MemoryFigures(
            weight_bytes=self.plan.layer_bytes + self.plan.head_bytes + (rest.weight_bytes if rest else 0),
            mapped_bytes=self._embedding.num_bytes,
            cache_bytes_per_token=self.plan.cache_bytes // max(1, self.plan.cache_tokens)
            + (rest.cache_bytes_per_token if rest else 0),
        )

    def num_gpu_bytes(self) -> int:
        """Bytes allocated on the GPU."""
        return self._device.num_bytes

    def num_submissions(self) -> int:
        """Pieces in which work was handed to the GPU since it was opened."""
        return self._model.num_submissions

    def num_dispatches(self) -> int:
        """Dispatches of one token."""
        return self._model.num_dispatches()

    def close(self) -> None:
        """Give the GPU's memory back."""
        with self._lock:  # wgpu ends the process where a buffer goes while it is read
            self._device.close()

    def forward(self, batch: Sequence[ForwardStep]) -> list[_F32]:
        """Run one step of every sequence.

        Returns:
            For each sequence logits of shape (num_logits, V).

        Raises:
            EngineError: a sequence would outgrow the context or the cache's budget, a token id is not in the
                vocabulary, a step is empty, or the GPU was lost twice.
        """
        caches = [self._own(step.cache) for step in batch]
        for step, cache in zip(batch, caches, strict=True):
            check_step(step, cache.length, self.config)
        if self._limits.tokens_per_s is not None:
            self._pace.hold_back(sum(len(step.token_ids) for step in batch))
        return self._survive(lambda: self._run(batch, caches))

    @property
    def kv_format(self) -> str:
        """What the bytes of a page mean; another adapter or driver may round the last bit otherwise."""
        plan, adapter = self.plan, self.adapter
        rest = "" if self._rest is None else f", {self._rest.kv_format} from layer {plan.num_gpu_layers}"
        return (
            f"wgpu ({adapter}, {adapter.driver}, {self.variant}), {plan.kv_bits} bits, {BLOCK_TOKENS} tokens, 1{rest}"
        )

    @property
    def page_bytes(self) -> int:
        """Bytes of a page, which is a block of every layer."""
        return self._model.page_bytes + (self._rest.page_bytes if self._rest else 0)

    @property
    def page_value_bytes(self) -> int:
        """Bytes of one key or value in a page."""
        return self.plan.kv_bits // 8

    def read_pages(self, cache: object, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """(P, page_bytes) keys and values of a stretch of tokens, for `write_pages`; others may run between pages."""
        kept, first = self._own(cache), start // BLOCK_TOKENS
        pages = np.empty((-(-stop // BLOCK_TOKENS) - first, self.page_bytes), np.uint8)
        size = self._model.page_bytes
        for number, page in enumerate(pages, first):
            page[:size] = self._survive(functools.partial(self._read_page, kept, number))
        if self._rest is not None:
            pages[:, size:] = self._rest.read_pages(kept.parts[1], start, stop)
        if stop % BLOCK_TOKENS:
            self._model.clear_behind(pages[-1, :size], stop % BLOCK_TOKENS)
        return pages

    def write_pages(self, cache: object, start: int, pages: npt.NDArray[np.uint8]) -> None:
        """Put pages where `read_pages` took them from, into a cache with room for them."""
        kept, done, size = self._own(cache), 0, self._model.page_bytes
        while done < len(pages):
            done = self._survive(functools.partial(self._write_page, kept, start, pages[:, :size], done))
        if self._rest is not None:
            self._rest.write_pages(kept.parts[1], start, np.ascontiguousarray(pages[:, size:]))

    def _read_page(self, cache: GpuCache, number: int) -> npt.NDArray[np.uint8]:
        self._bring_home(cache)
        return self._model.read_block(cache.parts[0].blocks[number])

    def _write_page(self, cache: GpuCache, start: int, pages: npt.NDArray[np.uint8], number: int) -> int:
        """Write a page; returns the next one, which is the second again where the device was lost with all of them."""
        if cache.home != self._home:
            self._bring_home(cache)
            cache.reserve(start + len(pages) * BLOCK_TOKENS)
            number = 0
        self._model.write_block(cache.parts[0].blocks[start // BLOCK_TOKENS + number], pages[number])
        return number + 1

    def _survive(self, work: Callable[[], _T]) -> _T:
        """Use the GPU, from one thread at a time; where it is lost, open it again, and do the work once more."""
        with self._lock:
            try:
                return work()
            except DeviceLostError as error:
                _log.warning("%s It is opened again, and sequences are read again when they are asked for.", error)
            self._device.close()
            self._open()
            return work()

    def _open(self) -> None:
        """Open the device, fill it, and start with empty caches."""
        self._device = GpuDevice(self.adapter, max_bytes=self.plan.budget_bytes)
        try:
            self._model = GpuModel(
                self._device, self.config, self._weights, self.plan, self._layout, self.variant, self._pace
            )
        except GpuError:
            self._device.close()
            raise
        pools = [BlockPool(self._model.num_blocks, BLOCK_TOKENS, self._model.copy_block)]
        if self._rest is not None:
            pools.append(self._rest.block_pool)
        self._home = tuple(pools)

    def _own(self, cache: object) -> GpuCache:
        if not isinstance(cache, GpuCache):
            raise EngineError(f"The wgpu backend got a foreign cache ({type(cache).__name__}); use its new_cache().")
        return cache

    def _run(self, batch: Sequence[ForwardStep], caches: Sequence[GpuCache]) -> list[_F32]:
        for step, cache in zip(batch, caches, strict=True):
            self._bring_home(cache)
            cache.reserve(cache.length + len(step.token_ids))
        passes = self._passes([len(step.token_ids) for step in batch], [c.length for c in caches])
        if len(passes) == 1:  # a piece a step, in order
            logits = self._compute(passes[0], batch, caches)
        else:
            parts: list[list[_F32]] = [[] for _ in batch]
            for pieces in passes:
                for piece, rows in zip(pieces, self._compute(pieces, batch, caches), strict=True):
                    parts[piece.step].append(rows)
            logits = [np.concatenate(rows) if len(rows) > 1 else rows[0] for rows in parts]
        for step, cache in zip(batch, caches, strict=True):
            cache.advance(step.token_ids)
        return logits

    def _compute(
        self, pieces: Sequence[_Piece], batch: Sequence[ForwardStep], caches: Sequence[GpuCache]
    ) -> list[_F32]:
        """Logits of each piece, by the GPU's head or by the CPU's layers."""
        ids: list[int] = []
        positions: list[int] = []
        sequences: list[int] = []
        tables: list[list[int]] = []
        rows: list[int] = []
        counts: list[int] = []
        for number, piece in enumerate(pieces):
            step, cache = batch[piece.step], caches[piece.step]
            past, first = cache.length, len(ids)
            ids += step.token_ids[piece.start : piece.stop]
            positions += range(past + piece.start, past + piece.stop)
            sequences += [number] * (piece.stop - piece.start)
            tables.append(cache.parts[0].blocks[: -(-(past + piece.stop) // BLOCK_TOKENS)])
            wanted = max(piece.start, len(step.token_ids) - step.num_logits)
            rows += range(first + wanted - piece.start, len(ids))
            counts.append(max(0, piece.stop - wanted))
        a_pass = Pass(positions=positions, sequences=sequences, tables=tables)
        if self._rest is None:
            logits = self._model.run(a_pass, ids, rows)
            if len(pieces) == 1:
                return [logits]
            ends = itertools.accumulate(counts)
            return [logits[end - count : end] for count, end in zip(counts, ends, strict=True)]
        self._model.run(a_pass, ids)
        return self._rest.forward_rows(
            self._model.hidden(len(ids)),
            [caches[p.step].parts[1] for p in pieces],
            [caches[p.step].length + p.start for p in pieces],
            [p.stop - p.start for p in pieces],
            counts,
        )

    def _passes(self, sizes: Sequence[int], pasts: Sequence[int]) -> list[list[_Piece]]:
        """Cut a batch into passes that hold few enough tokens and pieces of attention."""
        layout = self._layout
        most = 0
        for size, past in zip(sizes, pasts, strict=True):
            most += size * ((past + size - 1) // PIECE_TOKENS + 1)
        if sum(sizes) <= layout.max_tokens and most <= layout.max_items:
            return [[_Piece(step, 0, size) for step, size in enumerate(sizes)]]
        passes: list[list[_Piece]] = [[]]
        tokens = items = 0
        for step, (size, past) in enumerate(zip(sizes, pasts, strict=True)):
            start = 0
            for at in range(size):
                more = (past + at) // PIECE_TOKENS + 1
                if tokens + 1 > layout.max_tokens or items + more > layout.max_items:
                    if at > start:
                        passes[-1].append(_Piece(step, start, at))
                    passes.append([])
                    start, tokens, items = at, 0, 0
                tokens, items = tokens + 1, items + more
            passes[-1].append(_Piece(step, start, size))
        return passes

    def _bring_home(self, cache: GpuCache) -> None:
        """Compute a cache whose device is gone."""
        if cache.home == self._home:
            return
        token_ids = cache.token_ids
        cache.home, cache.token_ids = self._home, []
        cache.parts = self.new_cache().parts
        if token_ids:
            self._run([_Again(cache, token_ids)], [cache])


@dataclasses.dataclass(frozen=True)
class _Again:
    """A step that wants no logits."""

    cache: GpuCache
    token_ids: Sequence[int]
    num_logits: int = 0


def _rest_on_cpu(config: NemotronConfig, weights: Mapping[str, Weight], plan: GpuPlan) -> CpuBackend:
    """The layers that the GPU has no room for, and the head."""
    first, prefix = plan.num_gpu_layers, "model.layers."
    if first == config.num_hidden_layers:  # only the head did not fit: the CPU's backend has at least one layer
        raise AssertionError("the plan leaves a layer beside the head")
    kept = {}
    for name, weight in weights.items():
        if not name.startswith(prefix):
            kept[name] = weight
            continue
        number, _, tail = name.removeprefix(prefix).partition(".")
        if int(number) >= first:
            kept[f"{prefix}{int(number) - first}.{tail}"] = weight
    smaller = dataclasses.replace(config, num_hidden_layers=config.num_hidden_layers - first)
    rest = CpuBackend(smaller, kept, kv_bits=plan.kv_bits)
    _log.warning(
        "The GPU's budget holds %d of %d layers; the CPU computes the others and the head.", first, plan.num_layers
    )
    return rest
