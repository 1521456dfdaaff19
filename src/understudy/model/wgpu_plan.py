"""What a model takes of a GPU's memory, planned before anything is allocated."""

import dataclasses
from collections.abc import Mapping, Sequence

from understudy.errors import GpuMemoryError
from understudy.kernels.formats import StorageType, num_stored_bytes
from understudy.kernels.gpu_attention import BLOCK_TOKENS, PIECE_TOKENS, AttentionShape, cache_block_bytes, pieces_bytes
from understudy.kernels.gpu_matmul import PassLayout, padded, store_bytes
from understudy.model.config import NemotronConfig

__all__ = ["NORMS", "GpuPlan", "attention_shape", "head_slabs", "layer_stores", "plan_gpu", "work_places"]

_TABLE = "model.embed_tokens.weight"
_SMALL_CACHE_BYTES = 64 << 20
_TOKENS = 16
_ITEMS = 64
_ROWS = 4
_MAX_STORE_BYTES = 128 << 20  # that a kernel sees at once on any GPU
_MB = 1e6


@dataclasses.dataclass(frozen=True, kw_only=True)
class GpuPlan:
    """Who computes what, and the bytes that it takes on the GPU.

    Attributes:
        num_layers: of the model.
        num_gpu_layers: the first so many run on the GPU, the others on the CPU.
        has_head: whether the GPU computes logits; it does if all layers are there.
        layer_bytes: weights of the GPU's layers.
        head_bytes: weights of the output head and the norm before it.
        cache_tokens: that all sequences together may hold, whole blocks.
        cache_bytes: their keys and values in the GPU's layers.
        scratch_bytes: all else.
        table_bytes: of the input table, which stays in the machine's memory.
        kv_bits: of a cached value.
        budget_bytes: what was allowed; None for what the GPU has.
    """

    num_layers: int
    num_gpu_layers: int
    has_head: bool
    layer_bytes: int
    head_bytes: int
    cache_tokens: int
    cache_bytes: int
    scratch_bytes: int
    table_bytes: int
    kv_bits: int
    budget_bytes: int | None

    @property
    def total_bytes(self) -> int:
        """On the GPU."""
        return self.layer_bytes + self.head_bytes + self.cache_bytes + self.scratch_bytes

    def lines(self) -> dict[str, str]:
        """The plan in words, for people."""
        moved = self.num_layers - self.num_gpu_layers
        where = f"{self.num_gpu_layers} of {self.num_layers}" + ("" if self.has_head else ", none of the head")
        return {
            "layers on the GPU": where,
            "layers on the CPU": f"{moved} and the head" if moved or not self.has_head else "none",
            "weights of layers": f"{self.layer_bytes / _MB:.1f} MB",
            "weights of the head": f"{self.head_bytes / _MB:.1f} MB",
            "KV cache": f"{self.cache_bytes / _MB:.1f} MB for {self.cache_tokens} tokens at {self.kv_bits} bits",
            "scratch": f"{self.scratch_bytes / _MB:.1f} MB",
            "total": f"{self.total_bytes / _MB:.1f} MB"
            + (f" of {self.budget_bytes / _MB:.1f} MB" if self.budget_bytes is not None else ""),
            "input table, in the machine's memory": f"{self.table_bytes / _MB:.1f} MB",
        }


def attention_shape(config: NemotronConfig, kv_bits: int) -> AttentionShape:
    """The attention kernels' view of a model."""
    return AttentionShape(
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        rotary_dim=config.rotary_dim,
        kv_bits=kv_bits,
    )


_Kinds = Mapping[str, StorageType]
_Shapes = Mapping[str, tuple[int, ...]]
_Matrices = list[tuple[str, tuple[str, ...]]]
NORMS = {"qkv": "input_layernorm", "up": "post_attention_layernorm"}


def _layer_matrices(kinds: _Kinds, layer: int) -> _Matrices:
    """A layer's multiplications: what each is for, and the weights that it stacks; q, k and v in as few as can be."""
    prefix = f"model.layers.{layer}"
    projections = [f"{prefix}.self_attn.{p}_proj.weight" for p in "qkv"]
    stacks: list[tuple[str, ...]] = []
    for name in projections:
        if stacks and kinds[stacks[-1][-1]] is kinds[name]:
            stacks[-1] += (name,)
        else:
            stacks.append((name,))
    single = (("out", "self_attn.o_proj"), ("up", "mlp.up_proj"), ("down", "mlp.down_proj"))
    return [("qkv", stack) for stack in stacks] + [(use, (f"{prefix}.{name}.weight",)) for use, name in single]


def layer_stores(kinds: _Kinds, shapes: _Shapes, layer: int, most: int) -> list[tuple[_Matrices, int]]:
    """What goes into one buffer each of a layer's multiplications, and its bytes: all of them, if it can be seen whole.

    Args:
        kinds: formats of the model's tensors.
        shapes: shapes of these.
        layer: which.
        most: bytes that a kernel sees at once.
    """
    stores: list[tuple[_Matrices, int]] = []
    for matrix in _layer_matrices(kinds, layer):
        together = [*stores[-1][0], matrix] if stores else [matrix]
        size = store_bytes(_described(kinds, shapes, use, names) for use, names in together)
        if stores and size <= most:
            stores[-1] = together, size
        else:
            stores.append(([matrix], store_bytes([_described(kinds, shapes, *matrix)])))
    return stores


def _described(kinds: _Kinds, shapes: _Shapes, use: str, names: Sequence[str]) -> tuple[StorageType, int, int, bool]:
    """What `store_bytes` takes of a multiplication."""
    return kinds[names[0]], sum(shapes[name][0] for name in names), shapes[names[0]][1], use in NORMS


def head_slabs(kind: StorageType, rows: int, cols: int, most: int) -> list[tuple[range, int]]:
    """The rows of the head in slabs that a kernel sees at once, and the bytes of a buffer for each."""
    a_row = store_bytes([(kind, 64, cols, False)]) - store_bytes([])
    slab = max(8, (most - store_bytes([(kind, 0, cols, True)]) - 32) * 64 // a_row // 8 * 8)
    slabs = [range(start, min(start + slab, rows)) for start in range(0, rows, slab)]
    return [(part, store_bytes([(kind, len(part), cols, True)])) for part in slabs]


def work_places(config: NemotronConfig, layout: PassLayout, kv_bits: int) -> tuple[dict[str, int], int]:
    """Where each kind of activations begins in their buffer, and how many there are in all: floats."""
    heads, kv_heads, h = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    widths = {
        "x": config.hidden_size,
        "qkv": (heads + 2 * kv_heads) * h,
        "mixed": heads * h,
        "hidden": config.intermediate_size,
    }
    sizes = {name: layout.max_tokens * padded(width) for name, width in widths.items()}
    sizes["pieces"] = pieces_bytes(attention_shape(config, kv_bits), layout) // 4
    places, end = {}, 0
    for name, size in sizes.items():
        places[name], end = end, end + size
    return places, end


def plan_gpu(
    config: NemotronConfig,
    kinds: _Kinds,
    shapes: _Shapes,
    *,
    budget_bytes: int | None = None,
    kv_bits: int | None = None,
    cache_tokens: int | None = None,
    max_store_bytes: int = _MAX_STORE_BYTES,
) -> tuple[GpuPlan, PassLayout]:
    """Put as many layers on the GPU as its budget allows, and the head if all are there.

    Args:
        config: the model's shape.
        kinds: formats of its tensors.
        shapes: shapes of these.
        budget_bytes: cap of all that is allocated; None for no cap.
        kv_bits: 8 or 16; None takes 16 where a whole context stays below 64 MiB, as the CPU backend does.
        cache_tokens: of all sequences together; None for one context, and for four where there is no budget.
        max_store_bytes: that a kernel sees at once.

    Raises:
        GpuMemoryError: not even one layer fits.
    """
    values = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    context = config.max_position_embeddings
    if kv_bits is None:
        kv_bits = 16 if 2 * values * context <= _SMALL_CACHE_BYTES else 8
    if cache_tokens is None:
        cache_tokens = context * (4 if budget_bytes is None else 1)
    blocks = -(-cache_tokens // BLOCK_TOKENS)
    layout = PassLayout(
        max_tokens=_TOKENS,
        max_items=max(_ITEMS, -(-context // PIECE_TOKENS)),
        max_rows=_ROWS,
        max_blocks=_TOKENS * -(-context // BLOCK_TOKENS),  # every token another sequence's, and all share their blocks
    )
    layers = [
        sum(size for _, size in layer_stores(kinds, shapes, n, max_store_bytes))
        for n in range(config.num_hidden_layers)
    ]
    cache = blocks * cache_block_bytes(attention_shape(config, kv_bits))
    head_name = _TABLE if config.tie_word_embeddings else "lm_head.weight"
    rows, cols = shapes[head_name]
    head = sum(size for _, size in head_slabs(kinds[head_name], rows, cols, min(max_store_bytes, _MAX_STORE_BYTES)))
    num_gpu, has_head = _fit(layers, cache, head, _scratch_bytes(config, layout, kv_bits), budget_bytes)
    plan = GpuPlan(
        num_layers=config.num_hidden_layers,
        num_gpu_layers=num_gpu,
        has_head=has_head,
        layer_bytes=sum(layers[:num_gpu]),
        head_bytes=head if has_head else 0,
        cache_tokens=blocks * BLOCK_TOKENS,
        cache_bytes=cache * num_gpu,
        scratch_bytes=_scratch_bytes(config, layout, kv_bits)[0] + (_logits_bytes(config, layout) if has_head else 0),
        table_bytes=num_stored_bytes(kinds[_TABLE], shapes[_TABLE]),
        kv_bits=kv_bits,
        budget_bytes=budget_bytes,
    )
    return plan, layout


def _fit(layers: list[int], cache: int, head: int, scratch: tuple[int, int], budget: int | None) -> tuple[int, bool]:
    """Layers that the budget holds, and whether it holds the head beside all of them."""
    if budget is None or sum(layers) + cache * len(layers) + head + sum(scratch) <= budget:
        return len(layers), True
    left, count = budget - scratch[0], 0
    while count < len(layers) - 1 and left >= layers[count] + cache:  # the CPU's part has at least one
        left -= layers[count] + cache
        count += 1
    if (count == 0 and len(layers) > 1) or len(layers) == 1:
        needed = scratch[0] + layers[0] + cache
        raise GpuMemoryError(
            f"Not one layer fits {budget / _MB:.1f} MB of GPU memory: the first takes {needed / _MB:.1f} MB with its "
            "cache and buffers; allow at least that, or use --backend cpu."
        )
    return count, False


def _logits_bytes(config: NemotronConfig, layout: PassLayout) -> int:
    return layout.max_rows * config.vocab_size * 4 + 16


def _scratch_bytes(config: NemotronConfig, layout: PassLayout, kv_bits: int) -> tuple[int, int]:
    """Bytes without logits, and bytes of logits."""
    told = layout.num_words * 4 + layout.max_tokens * padded(config.hidden_size) * 4
    turns = config.max_position_embeddings * config.rotary_dim // 2 * 8
    block = cache_block_bytes(attention_shape(config, kv_bits))
    return work_places(config, layout, kv_bits)[1] * 4 + turns + block + told + 64, _logits_bytes(config, layout)
