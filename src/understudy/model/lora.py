"""LoRA adapters (arXiv 2106.09685) for a model that is loaded: `peft`'s folder, or llama.cpp's GGUF.

Beside a model that the CPU has loaded, they take what they weigh. Merged, each matrix is made when the backend asks for
it, so that nothing is kept beside the backend's own copy; one of a packed model is stored as Q8_0: at 4 bits
the rounding would be larger than what adapters add.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.errors import ModelFileError
from understudy.kernels.formats import StorageType, quantize
from understudy.model.checkpoint import LoadedModel
from understudy.model.gguf_reader import read_gguf
from understudy.model.mapped_file import read_json_object
from understudy.model.safetensors_file import read_safetensors
from understudy.model.tensor_names import from_gguf_names
from understudy.model.weights import Weight

__all__ = ["LoraAdapter", "beside_adapter", "is_adapter", "read_adapter", "with_adapter"]

_CONFIG, _TENSORS = "adapter_config.json", "adapter_model.safetensors"
_PEFT_PREFIX, _PEFT_A, _PEFT_B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
_MERGED = {StorageType.F32: StorageType.F32, StorageType.F16: StorageType.F16, StorageType.BF16: StorageType.F16}
_HALF = ".lora_a"
_EMBEDDING = "model.embed_tokens.weight"
# What peft can do and this cannot: each changes what the matrices mean.
_UNSUPPORTED = (
    "alpha_pattern",
    "fan_in_fan_out",
    "lora_bias",
    "modules_to_save",
    "trainable_token_indices",
    "use_dora",
)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LoraAdapter:
    """Small matrices beside a model's own.

    Attributes:
        path: the file or folder.
        pairs: A (rank, inputs) and B (outputs, rank) by Hugging Face's name of the matrix that they stand beside.
        alpha: what they add is scaled by alpha / rank; None for not at all.
        is_rank_stabilized: by alpha / sqrt(rank) instead (arXiv 2312.03732).
        num_bytes: size of the file.
    """

    path: Path
    pairs: Mapping[str, tuple[Weight, Weight]]
    alpha: float | None
    is_rank_stabilized: bool
    num_bytes: int

    def scaled(self, name: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """A (rank, inputs) and B (outputs, rank) whose product is added to a matrix."""
        a, b = self.pairs[name]
        rank = a.shape[0]
        divisor = math.sqrt(rank) if self.is_rank_stabilized else rank
        scaled = b.dense()
        if self.alpha is not None:
            scaled *= np.float32(self.alpha / divisor)
        return a.dense(), scaled

    def delta(self, name: str) -> npt.NDArray[np.float32]:
        """What is added to a matrix, (outputs, inputs)."""
        a, b = self.scaled(name)
        return b @ a


def is_adapter(path: Path) -> bool:
    """Whether a file or folder says that it is an adapter, not a model. What is neither is not.

    Raises:
        ModelFileError: a GGUF file is damaged.
    """
    if path.is_dir():
        return (path / _CONFIG).is_file()
    if not path.is_file():  # a pipe is read once only, by whoever loads it
        return False
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            return False
    return read_gguf(path).metadata.get("general.type") == "adapter"


def read_adapter(path: Path) -> LoraAdapter:
    """Map an adapter.

    Raises:
        ModelFileError: it is missing, damaged, no LoRA adapter, or of a kind that cannot be merged exactly.
    """
    found = _read_folder(path) if path.is_dir() else _read_gguf(path)
    if not found.pairs:
        raise ModelFileError(f"{path} has no LoRA matrices; get it again, or train it again.")
    for name, (a, b) in found.pairs.items():
        if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1] or not a.shape[0]:
            raise ModelFileError(
                f"{path}: the matrices beside {name!r} have shapes {a.shape} and {b.shape}, which do not fit each "
                "other; get the adapter again."
            )
    return found


def with_adapter(files: LoadedModel, adapter: LoraAdapter) -> LoadedModel:
    """A model and an adapter as one: its tokenizer, template and shape, other weights.

    Raises:
        ModelFileError: the adapter belongs to a model of another shape.
    """
    _check(files, adapter)
    return _with(files, adapter, _MergedWeights(files.weights, adapter))


def beside_adapter(files: LoadedModel, adapter: LoraAdapter) -> LoadedModel:
    """A model with an adapter's matrices beside its own, for a backend that has both: see `CpuBackend.adapted`.

    Raises:
        ModelFileError: the adapter belongs to a model of another shape, or the model has an adapter beside it already.
    """
    _check(files, adapter)
    if any(name.endswith(_HALF) for name in files.weights):
        raise ModelFileError(f"{files.path} is an adapter beside its base; put {adapter.path} beside the base, too.")
    halves = {f"{name}.lora_{x}": w for name, pair in adapter.pairs.items() for x, w in zip("ab", pair, strict=True)}
    return _with(files, adapter, {**files.weights, **halves})


def _check(files: LoadedModel, adapter: LoraAdapter) -> None:
    for name, (a, b) in adapter.pairs.items():
        weight = files.weights.get(name)
        if weight is None or len(weight.shape) != 2 or name == _EMBEDDING:
            raise ModelFileError(f"The adapter {adapter.path} changes {name!r}, which {files.path} does not have so.")
        if weight.shape != (b.shape[0], a.shape[1]):
            raise ModelFileError(
                f"The adapter {adapter.path} does not fit {files.path}: {name!r} is {weight.shape} there, and it "
                f"expects {(b.shape[0], a.shape[1])}; adapter and base must belong together."
            )


def _with(files: LoadedModel, adapter: LoraAdapter, weights: Mapping[str, Weight]) -> LoadedModel:
    return dataclasses.replace(
        files,
        path=adapter.path,
        weights=weights,
        file_bytes=files.file_bytes + adapter.num_bytes,
    )


class _MergedWeights(Mapping[str, Weight]):
    """A model's tensors; those with an adapter are merged anew at each look."""

    def __init__(self, weights: Mapping[str, Weight], adapter: LoraAdapter) -> None:
        self._weights, self._adapter = weights, adapter

    def __getitem__(self, name: str) -> Weight:
        weight = self._weights[name]
        if name not in self._adapter.pairs:
            return weight
        kind = _MERGED.get(weight.kind, StorageType.Q8_0)
        merged = weight.dense()
        merged += self._adapter.delta(name)
        try:
            return Weight(quantize(merged, kind), kind, weight.shape)
        except ValueError as error:
            raise ModelFileError(f"The adapter {self._adapter.path} makes {name!r} unusable: {error}.") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)


def _read_folder(folder: Path) -> LoraAdapter:
    config = read_json_object(folder / _CONFIG)
    if config.get("peft_type") != "LORA":
        raise ModelFileError(f"{folder} is an adapter of the kind {config.get('peft_type')!r}; expected LORA.")
    used = [word for word in _UNSUPPORTED if config.get(word)]
    used += ["bias"] if config.get("bias", "none") != "none" else []
    if used:
        raise ModelFileError(
            f"{folder} uses {used[0]}, which cannot be merged here; merge it with peft, and load that."
        )
    alpha, path = config.get("lora_alpha"), folder / _TENSORS
    if not path.is_file():
        raise ModelFileError(f"{folder} has no {_TENSORS}; save the adapter as safetensors.")
    halves: dict[str, dict[str, Weight]] = {}
    for name, weight in read_safetensors(path).items():
        end = next((end for end in (_PEFT_A, _PEFT_B) if name.endswith(end)), None)
        if end is None or not name.startswith(_PEFT_PREFIX):
            raise ModelFileError(f"{path} has the tensor {name!r}, which is no LoRA matrix; merge it with peft.")
        halves.setdefault(f"{name.removeprefix(_PEFT_PREFIX).removesuffix(end)}.weight", {})[end] = weight
    return LoraAdapter(
        path=folder,
        pairs=_pairs(halves, (_PEFT_A, _PEFT_B), folder),
        alpha=_number(alpha, "lora_alpha", folder),
        is_rank_stabilized=bool(config.get("use_rslora")),
        num_bytes=path.stat().st_size,
    )


def _read_gguf(path: Path) -> LoraAdapter:
    file = read_gguf(path)
    kind = file.metadata.get("adapter.type")
    if file.metadata.get("general.type") != "adapter" or kind != "lora":
        raise ModelFileError(f"{path} is no LoRA adapter (general.type, adapter.type); is it a whole model?")
    halves: dict[str, dict[str, Weight]] = {}
    for name, weight in file.tensors.items():
        stem, _, end = name.rpartition(".")
        if end not in ("lora_a", "lora_b"):
            raise ModelFileError(f"{path} has the tensor {name!r}, which is no LoRA matrix; convert the adapter again.")
        (long,) = from_gguf_names({stem: weight})
        halves.setdefault(long, {})[end] = weight
    alpha = _number(file.metadata.get("adapter.lora.alpha"), "adapter.lora.alpha", path)
    return LoraAdapter(
        path=path,
        pairs=_pairs(halves, ("lora_a", "lora_b"), path),
        alpha=alpha or None,  # llama.cpp takes 0 for "unscaled"
        is_rank_stabilized=False,
        num_bytes=file.num_bytes,
    )


def _pairs(
    halves: Mapping[str, Mapping[str, Weight]], ends: tuple[str, str], path: Path
) -> dict[str, tuple[Weight, Weight]]:
    for name, found in halves.items():
        if len(found) < 2:
            raise ModelFileError(f"{path}: one of the two matrices beside {name!r} is missing; get it again.")
    return {name: (found[ends[0]], found[ends[1]]) for name, found in halves.items()}


def _number(value: Any, word: str, path: Path) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ModelFileError(f"{path}: {word} must be a number, got {value!r}; get the adapter again.")
    return float(value)
