"""A model's layers on an opened GPU: weights, cache, buffers, and the dispatches of a pass."""

import array
import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from understudy.kernels.gpu_attention import PIECE_TOKENS, attention, cache_block_bytes, clear_behind, turns
from understudy.kernels.gpu_bindings import bind_pass
from understudy.kernels.gpu_device import Bound, Copy, Dispatch, GpuBuffer, GpuDevice, Recorded, Schedule
from understudy.kernels.gpu_matmul import (
    GpuMatrix,
    Matmul,
    MatrixStore,
    PassLayout,
    Variant,
    Way,
    matmul,
    padded,
    token_tile,
)
from understudy.model.config import NemotronConfig
from understudy.model.gpu_limits import Pace, PassCosts
from understudy.model.input_table import InputTable
from understudy.model.mapped_file import drop_pages
from understudy.model.weights import Weight
from understudy.model.wgpu_plan import NORMS, GpuPlan, attention_shape, head_slabs, layer_stores, work_places

__all__ = ["GpuModel", "Pass"]

_F32 = npt.NDArray[np.float32]
_MAX_SCHEDULES = 256
_Run = tuple[Dispatch, tuple[int, int]]
_Key = tuple[int, int, int]
"""What a schedule depends on: tokens and pieces of attention, none for the head alone; rows of logits."""


class Pass(NamedTuple):
    """What one pass over the layers computes: tokens of any sequences, side by side.

    Attributes:
        positions: (T,) of the tokens in their sequences.
        sequences: (T,) whose tokens they are: places in `tables`.
        tables: cache blocks of each sequence.
    """

    positions: Sequence[int]
    sequences: Sequence[int]
    tables: Sequence[Sequence[int]]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Layer:
    """A layer's dispatches by the number of tokens that a workgroup takes."""

    matmuls: Mapping[int, tuple[tuple[str, Matmul], ...]]
    attention: tuple[Dispatch, Dispatch, Dispatch]


class GpuModel:
    """Layers, and the head if the plan says so, on one device.

    Attributes:
        plan: what is here.
        layout: of a pass's words.
        num_blocks: of the cache.
        num_submissions: pieces in which work was handed over so far.
    """

    def __init__(
        self,
        device: GpuDevice,
        config: NemotronConfig,
        weights: Mapping[str, Weight],
        plan: GpuPlan,
        layout: PassLayout,
        variant: Variant,
        pace: Pace,
    ) -> None:
        """Copy weights to the GPU and prepare every dispatch.

        Raises:
            GpuMemoryError: the GPU has less memory than planned.
            GpuError: the driver refuses a kernel.
        """
        self.plan, self.layout, self._config, self._device, self._variant = plan, layout, config, device, variant
        self._pace = pace
        self.num_submissions = 0
        self._schedules: dict[_Key, tuple[Schedule, PassCosts]] = {}
        self._ahead: tuple[_Key, list[tuple[slice, Recorded]]] | None = None
        self._last: _Key | None = None
        self._weight_bytes: dict[Dispatch, int] = {}
        self._tiles = (1, token_tile(device.adapter))
        self.num_blocks = plan.cache_tokens // 32
        self._shape = attention_shape(config, plan.kv_bits)
        self._at, num_floats = work_places(config, layout, plan.kv_bits)
        sizes = {
            "work": num_floats * 4,
            "words": layout.num_words * 4 + layout.max_tokens * padded(config.hidden_size) * 4,
            "block": cache_block_bytes(self._shape),
        }
        if plan.has_head:
            sizes["logits"] = layout.max_rows * config.vocab_size * 4
        self._buffers = {name: device.buffer(size, name) for name, size in sizes.items()}
        self._told = np.zeros(sizes["words"] // 4, np.uint32)
        self._told_x = self._told[layout.num_words :].view(np.float32).reshape(layout.max_tokens, -1)
        self._told_bytes, self._told_view = self._told.view(np.uint8), memoryview(self._told)  # type: ignore[arg-type]
        self._places, self._num_words = layout.places, layout.num_words
        self._buffers["turns"] = device.upload(
            turns(self._shape, config.rope_theta, config.max_position_embeddings), "turns"
        )
        self._inputs = InputTable(weights["model.embed_tokens.weight"])
        self._caches: list[GpuBuffer] = []
        self._page_back: GpuBuffer | None = None
        self._kinds = {name: weight.kind for name, weight in weights.items()}
        self._layers = [self._load_layer(weights, n) for n in range(plan.num_gpu_layers)]
        self._head: Mapping[int, list[Matmul]] = {}
        if plan.has_head:
            self._read_back = device.read_back(sizes["logits"])
            self._head = self._load_head(weights)

    def num_dispatches(self) -> int:
        """Dispatches of one token, from its row of the input table to its logits."""
        return len(self._layer_runs(1, 1)) + len(self._head.get(1, ()))

    def run(self, a_pass: Pass, ids: Sequence[int], rows: Sequence[int] = ()) -> _F32:
        """Submit a pass over all layers here, and wait for logits if some are wanted: (rows, V).

        Args:
            a_pass: at most `layout.max_tokens` tokens and `layout.max_items` pieces of attention.
            ids: (T,) its tokens.
            rows: of which tokens of the pass; only where the head is here.
        """
        first = rows[: self.layout.max_rows]
        num_items = self._tell(a_pass, ids, first)
        self._hand_over(self._num_words + len(ids) * self._told_x.shape[1])
        found = self._play((len(ids), num_items, len(first)))
        if len(rows) <= self.layout.max_rows:
            return found
        parts = [found]
        for start in range(len(first), len(rows), self.layout.max_rows):
            part = rows[start : start + self.layout.max_rows]
            self._tell_rows(part)
            self._hand_over(self._num_words)
            parts.append(self._play((0, 0, len(part))))
        return np.concatenate(parts)

    def hidden(self, num_tokens: int) -> _F32:
        """What the last layer here gave for the last pass: (T, D), for the layers elsewhere."""
        width = padded(self._config.hidden_size)
        raw = self._device.read(self._buffers["work"], num_tokens * width * 4)  # which begins with x
        return raw.view(np.float32).reshape(num_tokens, width)[:, : self._config.hidden_size]

    @property
    def page_bytes(self) -> int:
        """Bytes of a cache block in all layers here."""
        return cache_block_bytes(self._shape) * len(self._caches)

    def read_block(self, block: int) -> npt.NDArray[np.uint8]:
        """(`page_bytes`,) a cache block in all layers."""
        size = cache_block_bytes(self._shape)
        if self._page_back is None:
            self._page_back = self._device.read_back(self.page_bytes)
        self._device.copy(*(Copy(c, block * size, self._page_back, n * size, size) for n, c in enumerate(self._caches)))
        return self._device.fetch(self._page_back, self.page_bytes)

    def write_block(self, block: int, page: npt.NDArray[np.uint8]) -> None:
        """Put a page where `read_block` took it from."""
        size = cache_block_bytes(self._shape)
        for part, cache in zip(page.reshape(-1, size), self._caches, strict=True):
            self._device.write(cache, part, offset=block * size)

    def clear_behind(self, page: npt.NDArray[np.uint8], num_used: int) -> None:
        """Zero what lies behind the last token of a page."""
        for block in page.reshape(len(self._caches), -1):
            clear_behind(self._shape, block, num_used)

    def copy_block(self, source: int, target: int) -> None:
        """Copy a cache block in all layers."""
        size, between = cache_block_bytes(self._shape), self._buffers["block"]
        for cache in self._caches:  # by way of another buffer: inside of one nothing can be copied
            self._device.copy(
                Copy(cache, source * size, between, 0, size), Copy(between, 0, cache, target * size, size)
            )

    def _tile(self, num_tokens: int) -> int:
        return self._tiles[0] if num_tokens == 1 else self._tiles[1]

    def _tell(self, a_pass: Pass, ids: Sequence[int], rows: Sequence[int]) -> int:
        """Write down what tells the kernels about a pass; returns its number of pieces of attention.

        By words in a view and in one function: calls, and NumPy's of single words, take a microsecond each.
        """
        told, places, num_items = self._told_view, self._places, 0
        positions, tables, firsts = places["POSITIONS_AT"], places["TABLES_AT"], places["FIRST_ITEMS_AT"]
        items, at = places["ITEMS_AT"], places["BLOCKS_AT"]
        starts = []
        for table in a_pass.tables:
            starts.append(at)
            told[at : at + len(table)] = array.array("I", table)
            at += len(table)
        for token, (position, sequence) in enumerate(zip(a_pass.positions, a_pass.sequences, strict=True)):
            told[positions + token] = position
            told[tables + token] = starts[sequence]
            told[firsts + token] = num_items
            for piece in range(position // PIECE_TOKENS + 1):
                told[items + 2 * num_items] = token
                told[items + 2 * num_items + 1] = piece
                num_items += 1
        told[0] = len(ids)
        told[1] = num_items
        self._inputs.copy_rows(ids, self._told_x)
        self._tell_rows(rows)
        return num_items

    def _tell_rows(self, rows: Sequence[int]) -> None:
        told, at = self._told_view, self._places["WANTED_AT"]
        told[2] = len(rows)
        for n, row in enumerate(rows, at):
            told[n] = row

    def _hand_over(self, num_words: int) -> None:
        self._device.write_words(self._buffers["words"], self._told_bytes, num_words * 4)

    def _play(self, key: _Key) -> _F32:
        """Submit a schedule, at the pace that the limits allow, and read its logits.

        While the GPU works, a pass that came twice is recorded once more: mostly it comes again.
        """
        found = self._schedules.get(key)
        if found is None:
            if len(self._schedules) >= _MAX_SCHEDULES:
                self._schedules.clear()
            found = self._schedules[key] = self._schedule(key)
        schedule, costs = found
        device = self._device
        ahead = self._ahead[1] if self._ahead and self._ahead[0] == key else []
        self._ahead = None

        def submit(part: slice) -> None:
            is_there = ahead and ahead[0][0] == part
            device.send(ahead.pop(0)[1] if is_there else device.record(schedule, part))

        self.num_submissions += self._pace.run(costs, submit, device.wait)
        if key == self._last:
            self._ahead = key, [(part, device.record(schedule, part)) for part in self._pace.cut(costs)]
        self._last, vocab = key, self._config.vocab_size
        if not key[2]:
            return np.empty((0, vocab), np.float32)
        return self._device.fetch(self._read_back, key[2] * vocab * 4).view(np.float32).reshape(-1, vocab)

    def _schedule(self, key: _Key) -> tuple[Schedule, PassCosts]:
        """A schedule, and what its dispatches cost."""
        count, num_items, num_rows = key
        runs = (self._layer_runs(count, num_items) if count else []) + (self._head_runs(num_rows) if num_rows else [])
        width, words, work = self._told_x.shape[1] * 4, self._buffers["words"], self._buffers["work"]
        before = [Copy(words, self._num_words * 4, work, self._at["x"] * 4, count * width)] if count else []
        size = num_rows * self._config.vocab_size * 4
        after = [Copy(self._buffers["logits"], 0, self._read_back, 0, size)] if num_rows else []
        costs = PassCosts([self._weight_bytes.get(dispatch, 0) for dispatch, _ in runs])
        return self._device.schedule(runs, before=before, after=after), costs

    def _layer_runs(self, count: int, num_items: int) -> list[_Run]:
        shape, tile = self._shape, self._tile(count)
        heads, kv_heads = shape.num_heads, shape.num_kv_heads
        grids = ((count, heads + kv_heads), (num_items, kv_heads), (count, heads))
        runs: list[_Run] = []
        for layer in self._layers:
            matmuls = layer.matmuls[tile]
            runs += [m.run(count) for use, m in matmuls if use == "qkv"]
            runs += zip(layer.attention, grids, strict=True)
            runs += [m.run(count) for use, m in matmuls if use != "qkv"]
        return runs

    def _head_runs(self, count: int) -> list[_Run]:
        return [matmul.run(count) for matmul in self._head[self._tile(count)]]

    def _load_layer(self, weights: Mapping[str, Weight], number: int) -> _Layer:
        prefix, at = f"model.layers.{number}", self._at
        cache = self._device.buffer(self.num_blocks * cache_block_bytes(self._shape), f"cache of layer {number}")
        self._caches.append(cache)
        ways = self._ways()
        made: dict[int, list[tuple[str, Matmul]]] = {tile: [] for tile in self._tiles}
        bounds: list[Bound] = []
        offset = 0
        shapes, most = {name: weight.shape for name, weight in weights.items()}, self._device.adapter.max_binding_bytes
        for matrices, num_bytes in layer_stores(self._kinds, shapes, number, most):
            store = MatrixStore(self._device, num_bytes, f"layer {number}")
            bounds.append(bound := self._bind(store, cache))
            for use, names in matrices:
                norm = self._norm(weights, f"{prefix}.{NORMS[use]}") if use in NORMS else None
                way = dataclasses.replace(ways[use], y_offset=offset if use == "qkv" else 0)
                matrix = self._upload(store, [weights[name] for name in names], way, norm)
                for tile, matmuls in made.items():
                    matmuls.append((use, self._matmul(bound, matrix, tile)))
                offset += matrix.rows
        split = attention(
            self._device, bounds[-1], self._shape, self.layout, qkv_at=at["qkv"], pieces_at=at["pieces"],
            mixed_at=at["mixed"],
        )  # fmt: skip
        return _Layer(matmuls={tile: tuple(matmuls) for tile, matmuls in made.items()}, attention=split)

    def _ways(self) -> dict[str, Way]:
        """Where a layer's multiplications lead, by their use."""
        config, at = self._config, self._at
        heads = config.num_attention_heads + 2 * config.num_key_value_heads
        hidden, eps = padded(config.hidden_size), config.norm_eps
        return {
            "qkv": Way(x_at=at["x"], y_at=at["qkv"], y_stride=padded(heads * config.head_dim), eps=eps),
            "out": Way(x_at=at["mixed"], y_at=at["x"], y_stride=hidden, output="add"),
            "up": Way(
                x_at=at["x"], y_at=at["hidden"], y_stride=padded(config.intermediate_size), output="relu2", eps=eps
            ),
            "down": Way(x_at=at["hidden"], y_at=at["x"], y_stride=hidden, output="add"),
        }

    def _load_head(self, weights: Mapping[str, Weight]) -> dict[int, list[Matmul]]:
        """The head in slabs, none larger than what a kernel may see at once."""
        config = self._config
        head = weights["model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"]
        norm = self._norm(weights, "model.norm")
        most = min(self._device.adapter.max_binding_bytes, 128 << 20)
        way = Way(x_at=self._at["x"], y_at=0, y_stride=config.vocab_size, eps=config.norm_eps, is_head=True)
        table, made = head.raw.reshape(head.shape[0], -1), {tile: [] for tile in self._tiles}  # type: ignore[var-annotated]
        for part, num_bytes in head_slabs(head.kind, head.shape[0], head.shape[1], most):
            store = MatrixStore(self._device, num_bytes, "head")
            slab = Weight(table[part.start : part.stop].reshape(-1), head.kind, (len(part), head.shape[1]))
            matrix = self._upload(store, [slab], dataclasses.replace(way, y_offset=part.start), norm)
            bound = self._bind(store, self._caches[-1])
            for tile, matmuls in made.items():
                matmuls.append(self._matmul(bound, matrix, tile))
        return made

    def _bind(self, store: MatrixStore, cache: GpuBuffer) -> Bound:
        buffers = self._buffers
        return bind_pass(
            self._device,
            weights=store.weights,
            cache=cache,
            work=buffers["work"],
            words=buffers["words"],
            turns=buffers["turns"],
            logits=buffers.get("logits", buffers["block"]),
        )

    def _matmul(self, bound: Bound, matrix: GpuMatrix, tile: int) -> Matmul:
        made = matmul(self._device, bound, matrix, self.layout, variant=self._variant, tokens=tile)
        self._weight_bytes[made.dispatch] = made.num_bytes
        return made

    def _upload(self, store: MatrixStore, stack: Sequence[Weight], way: Way, norm: _F32 | None) -> GpuMatrix:
        kind, cols = stack[0].kind, stack[0].shape[1]
        matrix = store.add([np.asarray(w.raw) for w in stack], kind, [w.shape[0] for w in stack], cols, way, norm=norm)
        for weight in stack:
            drop_pages(weight.raw)
        return matrix

    def _norm(self, weights: Mapping[str, Weight], name: str) -> _F32:
        both = np.zeros((2, padded(self._config.hidden_size)), np.float32)
        both[0, : self._config.hidden_size] = weights[f"{name}.weight"].dense() + np.float32(1)
        both[1, : self._config.hidden_size] = weights[f"{name}.bias"].dense()
        return both
