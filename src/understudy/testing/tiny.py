"""A random model small enough for unit tests, and a tokenizer with one token a byte."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.model.checkpoint import LoadedModel
from understudy.model.config import NemotronConfig
from understudy.model.tensor_names import expected_shapes
from understudy.model.weights import Weight
from understudy.prompt.template import MARKERS
from understudy.tokenizer import Tokenizer
from understudy.tokenizer.byte_level import byte_level_definition

__all__ = ["byte_tokenizer", "byte_tokenizer_definition", "random_tensors", "tiny_config", "tiny_model"]

_SPECIALS = ("<pad>", "<unk>", "<s>", "</s>", *MARKERS)


def byte_tokenizer_definition() -> dict[str, Any]:
    """The `tokenizer.json` of `byte_tokenizer`."""
    return byte_level_definition(_SPECIALS)


def byte_tokenizer() -> Tokenizer:
    """One token a byte: ids 0-3 `<pad> <unk> <s> </s>`, 4-11 the template's markers, 12-267 the bytes 0-255."""
    return Tokenizer(byte_tokenizer_definition())


def tiny_config(**changes: Any) -> NemotronConfig:
    """A model of two layers for `byte_tokenizer`; `changes` are fields of `NemotronConfig`."""
    fields: dict[str, Any] = {
        "vocab_size": len(_SPECIALS) + 256,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 4096,
        **changes,
    }
    return NemotronConfig(**fields)


def random_tensors(config: NemotronConfig, *, seed: int = 0) -> dict[str, npt.NDArray[np.float32]]:
    """Random weights under Hugging Face's names, scaled so that logits differ clearly from token to token."""
    rng = np.random.default_rng(seed)
    tensors: dict[str, npt.NDArray[np.float32]] = {}
    for name, shape in expected_shapes(config).items():
        scale = 0.1 if len(shape) == 1 else shape[1] ** -0.5
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            scale = 0.5
        tensors[name] = rng.standard_normal(shape, np.float32) * np.float32(scale)
    return tensors


def tiny_model(*, seed: int = 0, **changes: Any) -> LoadedModel:
    """A random model with `byte_tokenizer`, as if it had been loaded from a file.

    Args:
        seed: of the weights.
        changes: fields of `NemotronConfig`, e.g. `max_position_embeddings=64`.
    """
    config = tiny_config(**changes)
    weights = {name: Weight.from_array(values) for name, values in random_tensors(config, seed=seed).items()}
    return LoadedModel(
        path=Path("tiny"),
        config=config,
        weights=weights,
        tokenizer=byte_tokenizer(),
        chat_template=None,
        metadata={},
        file_bytes=sum(w.num_bytes for w in weights.values()),
    )
