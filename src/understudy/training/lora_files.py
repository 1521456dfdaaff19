"""Adapters as files that other programs put beside the base model: peft's folder and llama.cpp's GGUF."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from understudy.errors import DataError
from understudy.kernels.formats import StorageType
from understudy.model.gguf_writer import write_gguf_tensors
from understudy.model.tensor_names import gguf_names
from understudy.training.folder import write_json
from understudy.training.recipe import LoraRecipe

__all__ = ["write_gguf_adapters", "write_peft_folder"]

_Adapters = Mapping[str, tuple[Tensor, Tensor]]


def write_peft_folder(
    folder: Path, adapters: _Adapters, recipe: LoraRecipe, *, base: str, metadata: Mapping[str, str] | None = None
) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors`, which `peft` and vLLM read.

    Args:
        folder: where to; made if missing, files there are replaced.
        adapters: from `named_adapters`.
        recipe: that they were trained with.
        base: name or path of the model that they belong to.
        metadata: goes into the safetensors header.

    Raises:
        DataError: the disk refuses.
    """
    tensors = {}
    for name, (a, b) in adapters.items():
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        tensors[f"{stem}.lora_A.weight"] = a.detach().float().cpu().contiguous()
        tensors[f"{stem}.lora_B.weight"] = b.detach().float().cpu().contiguous()
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": recipe.rank,
        "lora_alpha": recipe.alpha,
        "lora_dropout": 0.0,
        "target_modules": list(recipe.modules),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    part = folder / "adapter_model.safetensors.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "adapter_config.json", config)
        save_file(tensors, part, metadata={"format": "pt", **(metadata or {})})
        part.replace(folder / "adapter_model.safetensors")
    except (OSError, SafetensorError) as error:
        part.unlink(missing_ok=True)
        raise DataError(f"{folder} cannot be written: {error}; make room or choose another folder.") from error


def write_gguf_adapters(
    path: Path, adapters: _Adapters, recipe: LoraRecipe, *, metadata: Mapping[str, str] | None = None
) -> None:
    """Write adapters as a GGUF file that llama.cpp and its kin load beside the base model's (`--lora FILE`).

    Args:
        path: where to; a file there is replaced.
        adapters: from `named_adapters`.
        recipe: that they were trained with.
        metadata: further keys, such as "general.name".

    Raises:
        ModelFileError: the disk refuses.
    """
    keys = {
        "general.architecture": "nemotron",
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": float(recipe.alpha),
        "general.file_type": 0,
        **(metadata or {}),
    }
    names = gguf_names(adapters)
    values = {}
    for name, (a, b) in adapters.items():
        values[f"{names[name]}.lora_a"] = a.detach().float().cpu().numpy()
        values[f"{names[name]}.lora_b"] = b.detach().float().cpu().numpy()
    shapes = {name: (value.shape, StorageType.F32) for name, value in values.items()}
    write_gguf_tensors(
        path, keys, shapes, lambda name: np.ascontiguousarray(values[name], "<f4").reshape(-1).view(np.uint8)
    )
