"""Model files of each kind, made with the libraries that users make them with."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from understudy.model.config import NemotronConfig
from understudy.testing import byte_tokenizer, random_tensors, tiny_config

SaveFolder = Callable[..., Path]


def split_in_two(tensors: Mapping[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    names = list(tensors)
    return [{n: tensors[n] for n in half} for half in (names[::2], names[1::2])]


@pytest.fixture(scope="session")
def config() -> NemotronConfig:
    return tiny_config()


@pytest.fixture(scope="session")
def tensors(config: NemotronConfig) -> dict[str, np.ndarray]:
    """Random weights that half precision and bfloat16 hold exactly."""
    return {
        name: (np.clip(np.round(v * 128), -255, 255) / 128).astype(np.float32)
        for name, v in random_tensors(config).items()
    }


@pytest.fixture
def save_folder(tmp_path: Path, config: NemotronConfig, tensors: dict[str, np.ndarray]) -> SaveFolder:
    """Write a Hugging Face folder: `kind` is safetensors or bin, `sharded` splits it in two files."""

    def save(
        kind: str = "safetensors",
        *,
        sharded: bool = False,
        dtype: torch.dtype = torch.float32,
        extra: Mapping[str, torch.Tensor] | None = None,
        raw_config: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> Path:
        state = {n: torch.from_numpy(v).to(dtype) for n, v in tensors.items()} | dict(extra or {})
        (tmp_path / "config.json").write_text(json.dumps(raw_config or config.to_hf()))
        (tmp_path / "tokenizer.json").write_text(json.dumps(byte_tokenizer().definition))
        stem, suffix = {"safetensors": ("model", "safetensors"), "bin": ("pytorch_model", "bin")}[kind]
        write = save_file if kind == "safetensors" else lambda s, p: torch.save(s, p, **more)
        if not sharded:
            write(state, tmp_path / f"{stem}.{suffix}")
            return tmp_path
        weight_map = {}
        for i, part in enumerate(split_in_two(state), 1):
            name = f"{stem}-{i:05}-of-00002.{suffix}"
            write(part, tmp_path / name)
            weight_map |= dict.fromkeys(part, name)
        (tmp_path / f"{stem}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
        return tmp_path

    return save
