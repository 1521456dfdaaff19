"""`w4g128` for vLLM: signed 4-bit integers, a scale for 128 inputs, in compressed-tensors' layout "pack-quantized".

A matrix (outputs, inputs) becomes `weight_packed`, int32 (outputs, inputs / 8), eight levels + 8 a word, the first in
the lowest bits; `weight_scale`, bfloat16 (outputs, inputs / group); `weight_shape`, int64 (2,). Value = level * scale.
Tables and norms stay bfloat16, and `quantization_config` in config.json says all that.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch import Tensor

from understudy.errors import DataError
from understudy.model.checkpoint import LoadedModel
from understudy.model.weights import Weight
from understudy.training.folder import write_json, write_texts

__all__ = ["PackedGroups", "pack_groups", "unpack_groups", "write_compressed_tensors"]

_WORD = 8  # levels in an int32
_GROUP_SIZES = (128, 64, 32)
_DIVISORS = (6.5, 7.0, 7.5, 8.0, 8.5, 9.0, 9.5, 10.0, 10.5, 11.0, 12.0)  # of the largest value, to try as scales
_REFITS = 2
_SLAB_VALUES = 1 << 21
_LEAST_STRENGTH = 1e-6
_SHARD_BYTES = 2 << 30


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PackedGroups:
    """A matrix in 4 bits.

    Attributes:
        packed: (rows, cols / 8) int32.
        scales: (rows, cols / group) bfloat16, above 0.
    """

    packed: Tensor
    scales: Tensor


def pack_groups(weight: Tensor, strengths: Tensor | None = None, *, group_size: int = 128) -> PackedGroups:
    """Search scales for the least squared error of the output, and pack.

    Each group tries scales from its largest value / 6.5 down to / 12, then the least-squares scale of the best levels.
    Scales are rounded to bfloat16 before levels are chosen, so the error is that of the stored values.

    Args:
        weight: (rows, cols) float32; cols a multiple of `group_size`.
        strengths: (cols,) E[x^2] of each input, >= 0; None weighs all alike.
        group_size: values that share a scale, a multiple of 8.

    Raises:
        DataError: rows do not fill their groups, or a value is not finite.
    """
    rows, cols = weight.shape
    _check_groups([cols], group_size)
    if not bool(torch.isfinite(weight).all()):
        raise DataError("A weight is infinite or not a number; repair the checkpoint first.")
    if strengths is None:
        strengths = torch.ones(cols)
    typical = float(strengths.mean()) or 1.0
    h = (strengths / typical).clamp_min(_LEAST_STRENGTH).view(-1, group_size)
    packed = torch.empty(rows, cols // _WORD, dtype=torch.int32)
    scales = torch.empty(rows, cols // group_size, dtype=torch.bfloat16)
    step = max(1, _SLAB_VALUES // cols)
    for start in range(0, rows, step):
        levels, found = _search(weight[start : start + step].view(-1, len(h), group_size), h)
        scales[start : start + step] = found
        packed[start : start + step] = _words(levels.reshape(-1, cols))
    return PackedGroups(packed=packed, scales=scales)


def _check_groups(widths: Sequence[int], group_size: int) -> None:
    if group_size >= _WORD and group_size % _WORD == 0 and all(cols % group_size == 0 for cols in widths):
        return
    fitting = [str(size) for size in _GROUP_SIZES if all(cols % size == 0 for cols in widths)]
    raise DataError(
        f"Rows of {', '.join(map(str, sorted(set(widths))))} values do not fill groups of {group_size}; "
        + (f"choose a group size of {' or '.join(fitting)}." if fitting else "no group size of vLLM's fits them.")
    )


def _search(w: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """Levels (rows, groups, size) and bfloat16 scales (rows, groups)."""
    peak = w.abs().amax(dim=2)
    scale = torch.where(peak > 0, peak, 1.0)
    best = torch.full_like(peak, torch.inf)
    levels = torch.zeros_like(w)
    scales = torch.ones_like(peak)

    def consider(scale: Tensor) -> None:
        scale = scale.bfloat16().float()
        found = (w / scale[..., None]).round_().clamp_(-8, 7)
        error = ((w - found * scale[..., None]).square_() * h).sum(dim=2)
        better = error < best
        best.copy_(torch.where(better, error, best))
        scales.copy_(torch.where(better, scale, scales))
        levels.copy_(torch.where(better[..., None], found, levels))

    for divisor in _DIVISORS:
        consider(scale / divisor)
    for _ in range(_REFITS):
        over = (h * w * levels).sum(dim=2)
        under = (h * levels.square()).sum(dim=2)
        consider(torch.where((over > 0) & (under > 0), over / under, scales))
    return levels, scales.bfloat16()


def _words(levels: Tensor) -> Tensor:
    """(rows, cols) levels from -8 to 7 to (rows, cols / 8) int32."""
    nibbles = (levels + 8).to(torch.uint8).numpy().reshape(len(levels), -1, 2)
    octets = np.ascontiguousarray(nibbles[..., 0] | nibbles[..., 1] << 4)
    return torch.from_numpy(octets.view("<i4").astype(np.int32))


def unpack_groups(matrix: PackedGroups) -> Tensor:
    """The stored values, (rows, cols) bfloat16."""
    octets = matrix.packed.numpy().astype("<i4").view(np.uint8)
    nibbles = np.stack([octets & 15, octets >> 4], axis=2).reshape(len(octets), -1)
    levels = torch.from_numpy(nibbles.astype(np.int16) - 8).to(torch.bfloat16)
    grouped = levels.view(*matrix.scales.shape, -1) * matrix.scales[..., None]
    return grouped.reshape(levels.shape)


def write_compressed_tensors(
    folder: Path,
    files: LoadedModel,
    *,
    strengths: Mapping[str, npt.NDArray[np.floating]] | None = None,
    group_size: int = 128,
    metadata: Mapping[str, str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a folder that vLLM and transformers load; one shard of 2 GiB is in memory at a time.

    Old weights go first and new ones come last, so a torn folder is not taken for a whole one.

    Args:
        folder: where to; made if missing, files there are replaced.
        files: the model.
        strengths: E[x^2] of the inputs of each layer's matrix, by the matrix's name; None weighs all alike.
        group_size: inputs that share a scale; vLLM's kernels know 32, 64 and 128.
        metadata: goes into the safetensors header.
        progress: called with matrices and tables done and in all.

    Raises:
        DataError: rows do not fill their groups, a value is not finite, or the disk refuses.
    """
    names = list(files.weights)
    _check_groups([files.weights[name].shape[1] for name in names if _is_packed(name)], group_size)
    plan = _shards(files, group_size)
    stated = {"format": "pt", **(metadata or {})}
    done = 0
    try:
        write_texts(
            folder, files.config, files.tokenizer, chat_template=files.chat_template, more=_config_keys(group_size)
        )
        for old in (*folder.glob("model*.safetensors"), folder / "model.safetensors.index.json"):
            old.unlink(missing_ok=True)
        for file, members in plan.items():
            shard: dict[str, Tensor] = {}
            for name in members:
                shard |= _tensors(name, files.weights[name], (strengths or {}).get(name), group_size)
                done += 1
                if progress:
                    progress(done, len(names))
            part = folder / f"{file}.part"
            save_file(shard, part, metadata=stated)
            part.replace(folder / file)
        if len(plan) > 1:
            write_json(folder / "model.safetensors.index.json", _index(files, plan, group_size))
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error}; make room or choose another folder.") from error


def _is_packed(name: str) -> bool:
    return name.endswith("_proj.weight")


def _config_keys(group_size: int) -> dict[str, Any]:
    weights = {
        "num_bits": 4,
        "type": "int",
        "symmetric": True,
        "strategy": "group",
        "group_size": group_size,
        "dynamic": False,
        "actorder": None,
        "block_structure": None,
        "observer": "minmax",
        "observer_kwargs": {},
    }
    scheme = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
    return {
        "torch_dtype": "bfloat16",
        "quantization_config": {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "quantization_status": "compressed",
            "config_groups": {"group_0": scheme},
            "ignore": ["lm_head"],
            "kv_cache_scheme": None,
            "global_compression_ratio": None,
        },
    }


def _tensors(
    name: str, weight: Weight, strengths: npt.NDArray[np.floating] | None, group_size: int
) -> dict[str, Tensor]:
    values = torch.from_numpy(weight.dense())
    if not _is_packed(name):
        return {name: values.bfloat16()}
    found = pack_groups(
        values,
        None if strengths is None else torch.from_numpy(np.asarray(strengths, np.float32)),
        group_size=group_size,
    )
    shape = torch.tensor(weight.shape, dtype=torch.int64)
    return {f"{name}_packed": found.packed, f"{name}_scale": found.scales, f"{name}_shape": shape}


def _sizes(name: str, weight: Weight, group_size: int) -> dict[str, int]:
    """Bytes of what a tensor is written as."""
    count = int(np.prod(weight.shape))
    if not _is_packed(name):
        return {name: 2 * count}
    return {f"{name}_packed": count // 2, f"{name}_scale": 2 * count // group_size, f"{name}_shape": 16}


def _shards(files: LoadedModel, group_size: int) -> dict[str, list[str]]:
    """Names of the model's tensors by the file that they go into."""
    parts: list[list[str]] = [[]]
    size = 0
    for name, weight in files.weights.items():
        num_bytes = sum(_sizes(name, weight, group_size).values())
        if parts[-1] and size + num_bytes > _SHARD_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(name)
        size += num_bytes
    if len(parts) == 1:
        return {"model.safetensors": parts[0]}
    return {f"model-{n:05}-of-{len(parts):05}.safetensors": part for n, part in enumerate(parts, 1)}


def _index(files: LoadedModel, plan: Mapping[str, list[str]], group_size: int) -> dict[str, Any]:
    total = 0
    weight_map = {}
    for file, members in plan.items():
        for name in members:
            for written, num_bytes in _sizes(name, files.weights[name], group_size).items():
                total += num_bytes
                weight_map[written] = file
    return {"metadata": {"total_size": total}, "weight_map": weight_map}
