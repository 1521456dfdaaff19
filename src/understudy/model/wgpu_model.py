"""A model's layers on an opened GPU: weights, cache, buffers, and the dispatches of a pass."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.kernels.gpu_attention import PIECE_TOKENS, attention, cache_block_bytes, pieces_bytes, turns
from understudy.kernels.gpu_device import Copy, Dispatch, GpuBuffer, GpuDevice, Recorded, Schedule
from understudy.kernels.gpu_formats import gpu_bytes
from understudy.kernels.gpu_matmul import (
    GpuMatrix,
    Matmul,
    PassLayout,
    Variant,
    matmul,
    padded,
    token_tile,
    upload_matrix,
)
from understudy.model.config import NemotronConfig
from understudy.model.gpu_limits import Pace
from understudy.model.mapped_file import drop_pages
from understudy.model.weights import Weight
from understudy.model.wgpu_plan import GpuPlan, attention_shape, layer_matrices

__all__ = ["GpuModel", "Pass"]

_F32 = npt.NDArray[np.float32]
_MAX_SCHEDULES = 256
_Run = tuple[Dispatch, tuple[int, int]]
_Key = tuple[int, int, int]
"""What a schedule depends on: tokens and pieces of attention, none for the head alone; rows of logits."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pass:
    """What one pass over the layers computes: tokens of any sequences, side by side.

    Attributes:
        positions: (T,) of the tokens in their sequences.
        sequences: (T,) whose tokens they are: places in `tables`.
        tables: cache blocks of each sequence.
    """

    positions: Sequence[int]
    sequences: Sequence[int]
    tables: Sequence[Sequence[int]]

    @property
    def num_tokens(self) -> int:
        """T."""
        return len(self.positions)


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
        self._schedules: dict[_Key, tuple[Schedule, npt.NDArray[np.int64]]] = {}
        self._ahead: tuple[_Key, Recorded] | None = None
        self._last: _Key | None = None
        self._weight_bytes: dict[Dispatch, int] = {}
        self._tiles = (1, token_tile(device.adapter))
        self.num_blocks = plan.cache_tokens // 32
        self._shape = attention_shape(config, plan.kv_bits)
        heads = config.num_attention_heads + 2 * config.num_key_value_heads
        sizes = {
            "x": layout.max_tokens * padded(config.hidden_size) * 4,
            "qkv": layout.max_tokens * padded(heads * config.head_dim) * 4,
            "mixed": layout.max_tokens * padded(config.num_attention_heads * config.head_dim) * 4,
            "hidden": layout.max_tokens * padded(config.intermediate_size) * 4,
            "pieces": pieces_bytes(self._shape, layout),
            "words": layout.num_words * 4 + layout.max_tokens * padded(config.hidden_size) * 4,
            "block": cache_block_bytes(self._shape),
        }
        self._buffers = {name: device.buffer(size, name) for name, size in sizes.items()}
        self._told = np.zeros(sizes["words"] // 4, np.uint32)
        self._told_x = self._told[layout.num_words :].view(np.float32).reshape(layout.max_tokens, -1)
        self._places = layout.places
        self._buffers["turns"] = device.upload(
            turns(self._shape, config.rope_theta, config.max_position_embeddings), "turns"
        )
        self._caches: list[GpuBuffer] = []
        self._layers = [self._load_layer(weights, n) for n in range(plan.num_gpu_layers)]
        self._head: Mapping[int, list[Matmul]] = {}
        if plan.has_head:
            self._logits = device.buffer(layout.max_rows * config.vocab_size * 4, "logits")
            self._read_back = device.read_back(self._logits.num_bytes)
            self._head = self._load_head(weights)

    def num_dispatches(self) -> int:
        """Dispatches of one token, from its row of the input table to its logits."""
        return len(self._layer_runs(1, 1)) + len(self._head.get(1, ()))

    def run(self, a_pass: Pass, x: _F32, rows: Sequence[int] = ()) -> _F32:
        """Submit a pass over all layers here, and wait for logits if some are wanted: (rows, V).

        Args:
            a_pass: at most `layout.max_tokens` tokens and `layout.max_items` pieces of attention.
            x: (T, D) rows of the input table.
            rows: of which tokens of the pass; only where the head is here.
        """
        first = rows[: self.layout.max_rows]
        num_items = self._tell(a_pass, x, first)
        end = self.layout.num_words + a_pass.num_tokens * self._told_x.shape[1]
        self._device.write(self._buffers["words"], self._told[:end])
        found = [self._play((a_pass.num_tokens, num_items, len(first)))]
        for start in range(len(first), len(rows), self.layout.max_rows):
            part = rows[start : start + self.layout.max_rows]
            self._tell_rows(part)
            self._device.write(self._buffers["words"], self._told[: self.layout.num_words])
            found.append(self._play((0, 0, len(part))))
        return np.concatenate(found) if len(found) > 1 else found[0]

    def hidden(self, num_tokens: int) -> _F32:
        """What the last layer here gave for the last pass: (T, D), for the layers elsewhere."""
        width = padded(self._config.hidden_size)
        raw = self._device.read(self._buffers["x"], num_tokens * width * 4)
        return raw.view(np.float32).reshape(num_tokens, width)[:, : self._config.hidden_size]

    def copy_block(self, source: int, target: int) -> None:
        """Copy a cache block in all layers."""
        size, between = cache_block_bytes(self._shape), self._buffers["block"]
        for cache in self._caches:  # by way of another buffer: inside of one nothing can be copied
            self._device.copy(
                Copy(cache, source * size, between, 0, size), Copy(between, 0, cache, target * size, size)
            )

    def _tile(self, num_tokens: int) -> int:
        return self._tiles[0] if num_tokens == 1 else self._tiles[1]

    def _tell(self, a_pass: Pass, x: _F32, rows: Sequence[int]) -> int:
        """Write down what tells the kernels about a pass; returns its number of pieces of attention."""
        told, places, num_tokens = self._told, self._places, a_pass.num_tokens
        items: list[int] = []
        blocks: list[int] = []
        firsts, starts = [], []
        for token, position in enumerate(a_pass.positions):
            firsts.append(len(items) // 2)
            for piece in range(position // PIECE_TOKENS + 1):
                items += (token, piece)
        for table in a_pass.tables:
            starts.append(places["BLOCKS_AT"] + len(blocks))
            blocks += table
        told[0:2] = num_tokens, len(items) // 2
        for name, values in (
            ("POSITIONS_AT", a_pass.positions),
            ("TABLES_AT", [starts[sequence] for sequence in a_pass.sequences]),
            ("FIRST_ITEMS_AT", firsts),
            ("ITEMS_AT", items),
            ("BLOCKS_AT", blocks),
        ):
            told[places[name] : places[name] + len(values)] = values
        self._told_x[:num_tokens, : x.shape[1]] = x
        self._tell_rows(rows)
        return len(items) // 2

    def _tell_rows(self, rows: Sequence[int]) -> None:
        at = self._places["WANTED_AT"]
        self._told[2] = len(rows)
        self._told[at : at + len(rows)] = rows

    def _play(self, key: _Key) -> _F32:
        """Submit a schedule, at the pace that the limits allow, and read its logits.

        While the GPU works, a pass that came twice is recorded once more: mostly it comes again.
        """
        found = self._schedules.get(key)
        if found is None:
            if len(self._schedules) >= _MAX_SCHEDULES:
                self._schedules.clear()
            found = self._schedules[key] = self._schedule(key)
        schedule, num_bytes = found
        ahead = self._ahead[1] if self._ahead and self._ahead[0] == key else None
        self._ahead = None
        whole = slice(0, len(num_bytes))

        def submit(part: slice) -> None:
            device = self._device
            device.send(ahead if ahead is not None and part == whole else device.record(schedule, part))

        num_parts = self._pace.run(num_bytes, submit, self._device.wait)
        self.num_submissions += num_parts
        if num_parts == 1 and key == self._last:
            self._ahead = key, self._device.record(schedule)
        self._last, vocab = key, self._config.vocab_size
        if not key[2]:
            return np.empty((0, vocab), np.float32)
        return self._device.fetch(self._read_back, key[2] * vocab * 4).view(np.float32).reshape(-1, vocab)

    def _schedule(self, key: _Key) -> tuple[Schedule, npt.NDArray[np.int64]]:
        """A schedule, and the bytes of weights that each of its dispatches reads."""
        count, num_items, num_rows = key
        runs = (self._layer_runs(count, num_items) if count else []) + (self._head_runs(num_rows) if num_rows else [])
        width, words, x = self._told_x.shape[1] * 4, self._buffers["words"], self._buffers["x"]
        before = [Copy(words, self.layout.num_words * 4, x, 0, count * width)] if count else []
        size = num_rows * self._config.vocab_size * 4
        after = [Copy(self._logits, 0, self._read_back, 0, size)] if num_rows else []
        sizes = np.array([self._weight_bytes.get(dispatch, 0) for dispatch, _ in runs], np.int64)
        return self._device.schedule(runs, before=before, after=after), sizes

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
        prefix, buffers = f"model.layers.{number}", self._buffers
        cache = self._device.buffer(self.num_blocks * cache_block_bytes(self._shape), f"cache of layer {number}")
        self._caches.append(cache)
        norms = {
            "qkv": self._norm(weights, f"{prefix}.input_layernorm"),
            "up": self._norm(weights, f"{prefix}.post_attention_layernorm"),
        }
        ways: dict[str, dict[str, Any]] = {
            "qkv": {"x": buffers["x"], "y": buffers["qkv"], "norm": norms["qkv"], "output": "store"},
            "out": {"x": buffers["mixed"], "y": buffers["x"], "output": "add"},
            "up": {"x": buffers["x"], "y": buffers["hidden"], "norm": norms["up"], "output": "relu2"},
            "down": {"x": buffers["hidden"], "y": buffers["x"], "output": "add"},
        }
        heads = self._config.num_attention_heads + 2 * self._config.num_key_value_heads
        widths = {"qkv": heads * self._config.head_dim, "out": self._config.hidden_size,
                  "up": self._config.intermediate_size, "down": self._config.hidden_size}  # fmt: skip
        made: dict[int, list[tuple[str, Matmul]]] = {tile: [] for tile in self._tiles}
        offset = 0
        for use, names in layer_matrices({n: w.kind for n, w in weights.items()}, number):
            matrix = self._upload([weights[name] for name in names], f"layer {number}, {use}")
            for tile, matmuls in made.items():
                way = {**ways[use], "tokens": tile, "y_stride": padded(widths[use])}
                way["y_offset"] = offset if use == "qkv" else 0
                matmuls.append((use, self._matmul(matrix, **way)))
            offset += matrix.rows
        split = attention(
            self._device, self._shape, self.layout, cache=cache, qkv=buffers["qkv"], turns=buffers["turns"],
            pieces=buffers["pieces"], mixed=buffers["mixed"], words=buffers["words"],
        )  # fmt: skip
        return _Layer(matmuls={tile: tuple(matmuls) for tile, matmuls in made.items()}, attention=split)

    def _load_head(self, weights: Mapping[str, Weight]) -> dict[int, list[Matmul]]:
        """The head in slabs, none larger than what a kernel may see at once."""
        config = self._config
        head = weights["model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"]
        norm = self._norm(weights, "model.norm")
        most = min(self._device.adapter.max_binding_bytes, 128 << 20)
        table, made = head.raw.reshape(head.shape[0], -1), {tile: [] for tile in self._tiles}  # type: ignore[var-annotated]
        slab_rows = max(8, int(most / (gpu_bytes(head.kind, 64, head.shape[1])[0] / 64)) // 8 * 8)
        for start in range(0, head.shape[0], slab_rows):
            rows = table[start : start + slab_rows]
            matrix = self._upload([Weight(rows.reshape(-1), head.kind, (len(rows), head.shape[1]))], "head")
            for tile, matmuls in made.items():
                matmuls.append(
                    self._matmul(
                        matrix, x=self._buffers["x"], y=self._logits, tokens=tile, norm=norm, wants_logits=True,
                        y_stride=config.vocab_size, y_offset=start,
                    )
                )  # fmt: skip
        return made

    def _matmul(self, matrix: GpuMatrix, *, x: GpuBuffer, y: GpuBuffer, **way: Any) -> Matmul:
        if way.get("norm") is not None:
            way["eps"] = self._config.norm_eps
        words, variant = self._buffers["words"], self._variant
        made = matmul(self._device, matrix, x, y, words, self.layout, variant=variant, **way)
        self._weight_bytes[made.dispatch] = made.num_bytes
        return made

    def _upload(self, stack: Sequence[Weight], label: str) -> GpuMatrix:
        matrix = upload_matrix(
            self._device,
            [np.asarray(w.raw) for w in stack],
            stack[0].kind,
            [w.shape[0] for w in stack],
            stack[0].shape[1],
            label,
        )
        for weight in stack:
            drop_pages(weight.raw)
        return matrix

    def _norm(self, weights: Mapping[str, Weight], name: str) -> GpuBuffer:
        both = np.zeros((2, padded(self._config.hidden_size)), np.float32)
        both[0, : self._config.hidden_size] = weights[f"{name}.weight"].dense() + np.float32(1)
        both[1, : self._config.hidden_size] = weights[f"{name}.bias"].dense()
        return self._device.upload(both, name)
