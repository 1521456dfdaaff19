"""Random weights of any shape and format, to measure speed and memory where real ones are not at hand."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.errors import ModelFileError
from understudy.kernels.formats import IQ4_LEVELS, StorageType, num_stored_bytes
from understudy.model.config import NemotronConfig
from understudy.model.gguf_writer import write_packed_gguf
from understudy.model.tensor_names import expected_shapes

__all__ = ["SYNTHETIC_TYPES", "write_synthetic"]

_U8 = npt.NDArray[np.uint8]

# What a name stands for: format of the layers' matrices, of the head, of the input table, and GGUF's number for it.
SYNTHETIC_TYPES = {
    "q4_0": (StorageType.Q4_0, StorageType.Q4_0, StorageType.Q4_0, 2),
    "q4_k": (StorageType.Q4_K, StorageType.Q4_K, StorageType.Q4_K, 14),
    "q4_k_q6_k": (StorageType.Q4_K, StorageType.Q6_K, StorageType.Q4_K, 14),
    "iq4_xs": (StorageType.IQ4_XS, StorageType.Q6_K, StorageType.IQ4_XS, 30),
    "q8_0": (StorageType.Q8_0, StorageType.Q8_0, StorageType.Q8_0, 7),
    "f16": (StorageType.F16, StorageType.F16, StorageType.F16, 1),
    "bf16": (StorageType.BF16, StorageType.BF16, StorageType.BF16, 32),
}
_SLAB_BLOCKS = 1 << 16
_SPREAD = math.sqrt((16**2 - 1) / 12)  # of a uniform nibble
_MEAN = -0.5  # of a nibble minus 8


def write_synthetic(
    path: Path,
    config: NemotronConfig,
    tokenizer_definition: Mapping[str, Any],
    *,
    file_type: str,
    seed: int = 0,
    zeros: float = 0.5,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a GGUF of random weights; holds one tensor in memory at a time.

    Weights have a spread of 1 / sqrt(inputs), so activations stay sane; no engine's speed depends on their values
    but for the share of zeros after the squared ReLU.

    Args:
        path: where to; a file there is replaced.
        config: the model's shape.
        tokenizer_definition: the content of a `tokenizer.json`.
        file_type: a name of `SYNTHETIC_TYPES`.
        seed: same seed, same file.
        zeros: share of MLP neurons that stay at zero for a token, 0.5 to 0.99; above a half only for q4_0 and q4_k.
        progress: called with bytes written and bytes in all.

    Raises:
        ModelFileError: an unknown format, a share out of range, or the disk refuses.
    """
    if file_type not in SYNTHETIC_TYPES:
        raise ModelFileError(f"There is no format {file_type!r}; choose from {', '.join(SYNTHETIC_TYPES)}.")
    layers, head, table, number = SYNTHETIC_TYPES[file_type]
    if not 0.5 <= zeros <= 0.99 or (zeros > 0.5 and layers not in (StorageType.Q4_0, StorageType.Q4_K)):
        raise ModelFileError("The share of zeros must be from 0.5 to 0.99, and 0.5 but for q4_0 and q4_k.")
    shapes = expected_shapes(dataclasses.replace(config, tie_word_embeddings=False))
    kinds = _kinds(shapes, layers, head, table)
    total = sum(num_stored_bytes(kinds[n], s) for n, s in shapes.items())
    done = 0
    bias = _bias_for(zeros, config.hidden_size)

    def packed(name: str) -> _U8:
        nonlocal done
        shape, kind = shapes[name], kinds[name]
        done += num_stored_bytes(kind, shape)
        if progress:
            progress(done, total)
        if len(shape) == 1:
            value = 1.0 if name.endswith(".weight") else bias if "post_attention" in name else 0.0
            return np.full(shape, value, "<f4").view(np.uint8)
        return _matrix(np.random.default_rng([seed, list(shapes).index(name)]), kind, shape)

    write_packed_gguf(
        path,
        config,
        kinds,
        packed,
        tokenizer_definition,
        None,
        file_type_number=number,
        metadata={"general.name": f"random weights, seed {seed}, {zeros:.0%} zeros"},
    )


def _kinds(
    shapes: Mapping[str, tuple[int, ...]], layers: StorageType, head: StorageType, table: StorageType
) -> dict[str, StorageType]:
    kinds = {}
    for name, shape in shapes.items():
        kind = head if name == "lm_head.weight" else table if "embed_tokens" in name else layers
        kinds[name] = StorageType.F32 if len(shape) == 1 else kind
        if shape[-1] % kinds[name].block_size:
            raise ModelFileError(f"{name} has rows of {shape[-1]} values, which do not fill blocks of {kind.name}.")
    return kinds


def _bias_for(zeros: float, hidden_size: int) -> float:
    """Bias of the norm before the MLP that leaves so many neurons below zero.

    A neuron's input is normal: weights of mean m and spread s times a normed vector plus this bias b have the mean
    m * D * b and the spread s * sqrt(D * (1 + b^2)).
    """
    wanted = NormalDist().inv_cdf(zeros)
    ratio = -_MEAN / _SPREAD * math.sqrt(hidden_size)
    return wanted / math.sqrt(ratio * ratio - wanted * wanted)


def _matrix(rng: np.random.Generator, kind: StorageType, shape: tuple[int, ...]) -> _U8:
    spread = 1 / math.sqrt(shape[-1])
    size = num_stored_bytes(kind, shape)
    if kind.block_size == 1:
        values = (rng.standard_normal(1 << 20, np.float32) * np.float32(spread)).astype(np.float32)
        cells = values.astype("<f2") if kind is StorageType.F16 else (values.view("<u4") >> 16).astype("<u2")
        cells = values if kind is StorageType.F32 else cells
        return np.resize(cells.view(np.uint8), size)
    blocks = np.frombuffer(rng.bytes(size), np.uint8).reshape(-1, kind.block_bytes).copy()
    for start in range(0, len(blocks), _SLAB_BLOCKS):
        _set_scales(rng, blocks[start : start + _SLAB_BLOCKS], kind, spread)
    return blocks.reshape(-1)


def _set_scales(rng: np.random.Generator, blocks: _U8, kind: StorageType, spread: float) -> None:
    """Give random blocks scales of the wanted spread; the minima of Q4_K make its levels those of Q4_0."""
    if kind is StorageType.Q4_0:
        blocks[:, 0:2] = _halves(rng, len(blocks), spread / _SPREAD)
    elif kind is StorageType.Q8_0:
        blocks[:, 0:2] = _halves(rng, len(blocks), spread / 74)
    elif kind is StorageType.Q6_K:
        blocks[:, 192:208] = rng.integers(32, 64, (len(blocks), 16), dtype=np.uint8)
        blocks[:, 208:210] = _halves(rng, len(blocks), spread / (18.5 * 48))
    elif kind is StorageType.IQ4_XS:
        blocks[:, 2:4] = 0xFF  # scales 16 to 31
        blocks[:, 0:2] = _halves(rng, len(blocks), spread / (float(IQ4_LEVELS.std()) * 24))
    else:
        scales = rng.integers(32, 64, (len(blocks), 8), dtype=np.uint8)
        low, high = scales[:, :4], scales[:, 4:]
        blocks[:, 4:8] = low | (high >> 4) << 6
        blocks[:, 8:12] = low | (high >> 4) << 6  # minima equal to the scales
        blocks[:, 12:16] = (high & 15) | (high & 15) << 4
        blocks[:, 0:2] = _halves(rng, len(blocks), spread / (_SPREAD * 48))
        blocks[:, 2:4] = (blocks[:, 0:2].copy().view("<f2") * np.float16(8)).view(np.uint8)


def _halves(rng: np.random.Generator, count: int, typical: float) -> _U8:
    return (rng.uniform(0.8, 1.2, (count, 1)) * typical).astype("<f2").view(np.uint8)
