"""Which tensor is stored how: plans by name, plans for a memory budget, and the proof that they fit."""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from understudy.errors import RecipeError
from understudy.kernels.formats import StorageType, dequantize, num_stored_bytes
from understudy.model.config import NemotronConfig
from understudy.model.mapped_file import drop_pages
from understudy.model.tensor_names import expected_shapes
from understudy.model.weights import Weight
from understudy.quantization.blocks import ENCODED, encode

__all__ = [
    "HEAD",
    "PLANS",
    "TABLE",
    "MemoryProof",
    "Plan",
    "choose_plan",
    "fit_plan",
    "memory_proof",
    "named_plan",
    "parse_bytes",
    "stored_bytes",
]

_F32 = npt.NDArray[np.float32]

TABLE = "model.embed_tokens.weight"
HEAD = "lm_head.weight"

# Matrices, head, input table, GGUF's number for the nearest of llama.cpp's types.
PLANS = {
    "q4": (StorageType.Q4_K, StorageType.Q6_K, StorageType.Q4_K, 14),
    "q4xs": (StorageType.IQ4_XS, StorageType.Q6_K, StorageType.IQ4_XS, 30),
    "q6": (StorageType.Q6_K, StorageType.Q6_K, StorageType.Q6_K, 18),
    "q8": (StorageType.Q8_0, StorageType.Q8_0, StorageType.Q8_0, 7),
    "q4_0": (StorageType.Q4_0, StorageType.Q6_K, StorageType.Q4_0, 2),
}

_LADDER = (StorageType.IQ4_XS, StorageType.Q4_K, StorageType.Q6_K, StorageType.Q8_0)
_PROBED_ROWS = 96
_STEP_TOKENS = 256
_BLOCK_TOKENS = 32
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}

# Bytes of 256 inputs of one row in the kernels' layouts: panels of 16 rows, and tiles of 128 for the second MLP matrix.
_PANEL_BYTES = {StorageType.Q6_K: 212.0}
_TILE_BYTES = {StorageType.Q4_K: 148.0, StorageType.IQ4_XS: 138.0}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """Formats of all tensors.

    Attributes:
        name: "q4" and so on, or "mixed".
        kinds: by Hugging Face's name, head included even where it is tied.
        file_type: GGUF's `general.file_type` of the nearest of llama.cpp's types.
        notes: what a user should know, such as tensors that did not fit their blocks.
    """

    name: str
    kinds: Mapping[str, StorageType]
    file_type: int
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemoryProof:
    """Bytes that a running model takes; the process (Python, libraries, tokenizer) comes on top.

    Attributes:
        weight_bytes: matrices in the kernels' layout, and norms.
        cache_bytes: keys and values of `context` tokens, 8 bits each and a scale a token and head.
        buffer_bytes: activations of a step of 256 tokens, attention scores, one row of logits; one thread.
        table_bytes: the input table, memory-mapped apart.
        context: tokens.
    """

    weight_bytes: int
    cache_bytes: int
    buffer_bytes: int
    table_bytes: int
    context: int

    @property
    def total_bytes(self) -> int:
        """All but the mapped table."""
        return self.weight_bytes + self.cache_bytes + self.buffer_bytes


def parse_bytes(text: str) -> int:
    """Read "2.0GB", "500 MB" or "2GiB".

    Raises:
        RecipeError: it is no size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]I?)?B?\s*", text.upper())
    if match is None or float(match[1]) == 0:
        raise RecipeError(f"{text!r} is no size; write it like 2.0GB, 500MB or 2GiB.")
    return int(float(match[1]) * _UNITS[match[2] or ""])


def named_plan(name: str, config: NemotronConfig) -> Plan:
    """A plan of `PLANS` for a model's shape.

    A tied model's table takes the head's format, since it is both. Rows that do not fill a format's blocks fall back to
    Q8_0, and where they do not fill its blocks of 32 either, to F16.

    Raises:
        RecipeError: there is no such plan.
    """
    if name not in PLANS:
        raise RecipeError(f"There is no plan {name!r}; choose from {', '.join(PLANS)}.")
    matrices, head, table, file_type = PLANS[name]
    wanted = {
        tensor: head if tensor == HEAD or (tensor == TABLE and config.tie_word_embeddings) else matrices
        for tensor in _shapes(config)
    }
    if not config.tie_word_embeddings:
        wanted[TABLE] = table
    return _fitted(name, wanted, config, file_type)


def choose_plan(
    config: NemotronConfig,
    weights: Mapping[str, Weight],
    importance: Mapping[str, _F32],
    *,
    to: str | None = None,
    budget_bytes: int | None = None,
    context: int = 4096,
    progress: Callable[[int, int], None] | None = None,
) -> Plan:
    """The plan that was asked for: by name, by budget (`fit_plan`), or by name and proved to fit; q4 by default.

    Raises:
        RecipeError: there is no such plan, or the model does not fit the budget.
    """
    if budget_bytes is None:
        return named_plan(to or "q4", config)
    if to is None:
        return fit_plan(budget_bytes, config, weights, importance, context=context, progress=progress)
    plan = named_plan(to, config)
    needed = memory_proof(plan, config, context=context).total_bytes
    if needed > budget_bytes:
        least = memory_proof(_smallest(config), config, context=context).total_bytes
        raise RecipeError(
            f"As {to} the model takes {_gb(needed)}, more than {_gb(budget_bytes)}; leave --to out and formats are "
            f"mixed to fit (the smallest possible is {_gb(least)})."
        )
    return plan


def _smallest(config: NemotronConfig) -> Plan:
    """The plan that a budget starts from; the mapped table is not counted, so it keeps its quality."""
    smallest = _fitted("mixed", dict.fromkeys(_shapes(config), _LADDER[0]), config, PLANS["q4xs"][3])
    if config.tie_word_embeddings:
        return smallest
    return dataclasses.replace(smallest, kinds={**smallest.kinds, TABLE: named_plan("q4", config).kinds[TABLE]})


def _fitted(name: str, wanted: Mapping[str, StorageType], config: NemotronConfig, file_type: int) -> Plan:
    kinds: dict[str, StorageType] = {}
    fallen: dict[StorageType, list[str]] = {}
    for tensor, shape in _shapes(config).items():
        if len(shape) == 1:
            kinds[tensor] = StorageType.F32
            continue
        kinds[tensor] = _that_fits(wanted[tensor], shape[-1])
        if kinds[tensor] is not wanted[tensor]:
            fallen.setdefault(kinds[tensor], []).append(tensor)
    notes = [
        f"{len(names)} matrices have rows that do not fill their blocks and are stored as {kind.name} ({names[0]}, ...)"
        for kind, names in fallen.items()
    ]
    return Plan(name=name, kinds=kinds, file_type=file_type, notes=tuple(notes))


def _that_fits(kind: StorageType, cols: int) -> StorageType:
    if cols % kind.block_size == 0:
        return kind
    return StorageType.Q8_0 if cols % StorageType.Q8_0.block_size == 0 else StorageType.F16


def _shapes(config: NemotronConfig) -> dict[str, tuple[int, ...]]:
    return expected_shapes(dataclasses.replace(config, tie_word_embeddings=False))


def stored_bytes(plan: Plan, config: NemotronConfig) -> dict[str, int]:
    """Bytes of each tensor in the file."""
    return {name: num_stored_bytes(plan.kinds[name], shape) for name, shape in _shapes(config).items()}


def memory_proof(plan: Plan, config: NemotronConfig, *, context: int = 4096) -> MemoryProof:
    """What the compiled backend will hold, by its own layouts."""
    weights = 0
    shapes = _shapes(config)
    for name, shape in shapes.items():
        if name != TABLE:
            weights += _resident_bytes(plan.kinds[name], shape, is_down=name.endswith("down_proj.weight"))
    d, h = config.hidden_size, config.head_dim
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    blocks = -(-context // _BLOCK_TOKENS)
    cache = blocks * config.num_hidden_layers * kv_heads * (2 * _BLOCK_TOKENS * h + 8 * _BLOCK_TOKENS)
    widest = -(-max(d, config.intermediate_size, heads * h) // 256) * 256
    a_token = (
        4 * (3 * d + (heads + 2 * kv_heads) * h + heads * h + config.intermediate_size) + widest + widest // 256 * 100
    )
    scores = 4 * 4 * heads // kv_heads * (context + h)
    return MemoryProof(
        weight_bytes=weights,
        cache_bytes=cache,
        buffer_bytes=_STEP_TOKENS * a_token + scores + 4 * config.vocab_size,
        table_bytes=num_stored_bytes(plan.kinds[TABLE], shapes[TABLE]),
        context=context,
    )


def _resident_bytes(kind: StorageType, shape: tuple[int, ...], *, is_down: bool) -> int:
    if len(shape) == 1 or kind in (StorageType.F32, StorageType.F16, StorageType.BF16):
        rows = shape[0] if len(shape) == 1 else -(-shape[0] // 16) * 16 * shape[1]
        return rows * (4 if len(shape) == 1 else kind.block_bytes)
    is_tile = is_down and kind is not StorageType.Q6_K
    rows = -(-shape[0] // (128 if is_tile else 16)) * (128 if is_tile else 16)
    inputs = 256 if is_tile or kind.block_size == 256 else 64
    of_256 = (_TILE_BYTES if is_tile else _PANEL_BYTES).get(kind, kind.block_bytes * 256 / kind.block_size)
    return int(rows * -(-shape[1] // inputs) * inputs / 256 * of_256)


def fit_plan(
    budget_bytes: int,
    config: NemotronConfig,
    weights: Mapping[str, Weight],
    importance: Mapping[str, _F32],
    *,
    context: int = 4096,
    progress: Callable[[int, int], None] | None = None,
) -> Plan:
    """The plan with the least error whose running model fits a budget.

    Every matrix starts at the smallest format; then bytes go, one matrix at a time, to where they take away most error
    a byte. Errors are measured: the share of a matrix's output that is noise, on a sample of its rows, with inputs as
    strong as `importance` says; all matrices count alike, the head double, since nothing behind it evens its noise out.

    Args:
        budget_bytes: for weights, keys and values and buffers; the input table is mapped apart.
        config: the model's shape.
        weights: the 16- or 32-bit model.
        importance: E[x^2] by matrix, possibly empty.
        context: tokens of keys and values.
        progress: called with matrices measured and matrices in all.

    Raises:
        RecipeError: not even the smallest formats fit; the sentence says how much they take.
    """
    plan = _smallest(config)
    proof = memory_proof(plan, config, context=context)
    if proof.total_bytes > budget_bytes:
        raise RecipeError(
            f"The model does not fit {_gb(budget_bytes)}: the smallest plan takes {_gb(proof.total_bytes)} (weights "
            f"{_gb(proof.weight_bytes)}, keys and values of {context} tokens {_gb(proof.cache_bytes)}, buffers "
            f"{_gb(proof.buffer_bytes)}) beside a mapped table of {_gb(proof.table_bytes)}; allow that much, or make "
            "the model smaller with understudy prune."
        )
    names = [name for name, shape in _shapes(config).items() if len(shape) == 2 and name != TABLE]
    noise: dict[str, dict[StorageType, float]] = {}
    for number, name in enumerate(names):
        source = TABLE if name == HEAD and config.tie_word_embeddings else name
        noise[name] = _noise(weights[source], importance.get(name))
        if progress:
            progress(number + 1, len(names))
    kinds = _spend(budget_bytes - proof.total_bytes, plan.kinds, noise, _shapes(config))
    if config.tie_word_embeddings:
        kinds[TABLE] = kinds[HEAD]
    return dataclasses.replace(plan, kinds=kinds, file_type=_nearest_type(kinds, _shapes(config)))


def _nearest_type(kinds: Mapping[str, StorageType], shapes: Mapping[str, tuple[int, ...]]) -> int:
    """GGUF's number for the plan whose matrices are of the format that holds most weights."""
    held: dict[StorageType, int] = {}
    for name, shape in shapes.items():
        held[kinds[name]] = held.get(kinds[name], 0) + math.prod(shape)
    most = max(held, key=lambda kind: held[kind])
    return next((number for matrices, _, _, number in PLANS.values() if matrices is most), PLANS["q4xs"][3])


def _spend(
    spare: int,
    kinds: Mapping[str, StorageType],
    noise: Mapping[str, Mapping[StorageType, float]],
    shapes: Mapping[str, tuple[int, ...]],
) -> dict[str, StorageType]:
    kinds = dict(kinds)
    while True:
        best, best_rate, best_cost = None, 0.0, 0
        for name, errors in noise.items():
            now = _cost(kinds[name], name, shapes)
            for kind, error in errors.items():
                cost = _cost(kind, name, shapes) - now
                gain = (errors.get(kinds[name], 0.0) - error) * (2 if name == HEAD else 1)
                if 0 < cost <= spare and gain > best_rate * cost:
                    best, best_rate, best_cost = (name, kind), gain / cost, cost
        if best is None:
            return kinds
        kinds[best[0]] = best[1]
        spare -= best_cost


def _cost(kind: StorageType, name: str, shapes: Mapping[str, tuple[int, ...]]) -> int:
    return _resident_bytes(kind, shapes[name], is_down=name.endswith("down_proj.weight"))


def _noise(weight: Weight, importance: _F32 | None) -> dict[StorageType, float]:
    """Noise in the output of a matrix, relative, for every format of the ladder that fits its rows."""
    rows = np.unique(np.linspace(0, weight.shape[0] - 1, min(weight.shape[0], _PROBED_ROWS)).astype(np.int64))
    x = weight.rows(rows)
    drop_pages(weight.raw)  # so that a file of any size is measured in the memory of a matrix
    power = np.ones(x.shape[1]) if importance is None else importance.astype(np.float64)
    signal = float((power * x.astype(np.float64) ** 2).sum())
    found = {}
    for kind in _LADDER:
        if kind in ENCODED and x.shape[1] % kind.block_size == 0:
            decoded = dequantize(encode(x, kind, importance), kind, x.shape)
            found[kind] = float((power * (x - decoded).astype(np.float64) ** 2).sum()) / max(signal, 1e-30)
    return found


def _gb(count: int) -> str:
    if count >= 10**8:
        return f"{count / 1e9:.2f} GB"
    return f"{count / 1e6:.1f} MB" if count >= 10**5 else f"{count / 1e3:.1f} KB"
