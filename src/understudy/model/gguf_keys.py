"""GGUF's words for a Nemotron model's configuration."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from understudy.errors import ModelFileError
from understudy.model.config import NemotronConfig

__all__ = ["config_from_gguf", "config_to_gguf"]

_ARCH = "nemotron"
# llama.cpp wants an output table in every Nemotron file: a tied model's file holds the input table twice and says so.
_IS_TIED = "understudy.tie_word_embeddings"


def config_to_gguf(config: NemotronConfig) -> dict[str, Any]:
    """Metadata keys and values that describe the configuration."""
    return {
        f"{_ARCH}.vocab_size": config.vocab_size,
        f"{_ARCH}.context_length": config.max_position_embeddings,
        f"{_ARCH}.embedding_length": config.hidden_size,
        f"{_ARCH}.block_count": config.num_hidden_layers,
        f"{_ARCH}.feed_forward_length": config.intermediate_size,
        f"{_ARCH}.attention.head_count": config.num_attention_heads,
        f"{_ARCH}.attention.head_count_kv": config.num_key_value_heads,
        f"{_ARCH}.attention.key_length": config.head_dim,
        f"{_ARCH}.attention.value_length": config.head_dim,
        f"{_ARCH}.attention.layer_norm_epsilon": config.norm_eps,
        f"{_ARCH}.rope.dimension_count": config.rotary_dim,
        f"{_ARCH}.rope.freq_base": config.rope_theta,
        _IS_TIED: config.tie_word_embeddings,
    }


def config_from_gguf(metadata: Mapping[str, Any], *, vocab_size: int, has_output: bool) -> NemotronConfig:
    """Read the configuration from a GGUF file's metadata.

    Args:
        metadata: the file's keys and values.
        vocab_size: rows of the input table, where the metadata does not say.
        has_output: the file has an output table; without one, the input table serves as both.

    Raises:
        ModelFileError: another architecture, or a value that is missing or out of range.
    """
    arch = metadata.get("general.architecture")
    if arch != _ARCH:
        raise ModelFileError(
            f"The file holds a {arch!r} model; Understudy runs 'nemotron' models (NemotronForCausalLM)."
        )
    if metadata.get("split.count", 1) not in (0, 1):
        raise ModelFileError("The model is split over several files; join them with llama-gguf-split --merge.")
    if metadata.get(f"{_ARCH}.rope.scaling.type", "none") != "none" and (
        metadata.get(f"{_ARCH}.rope.scaling.factor", 1.0) != 1.0
    ):
        raise ModelFileError("The model's rope is scaled, which is not supported; expected plain rope.")
    heads, hidden = _int(metadata, "attention.head_count"), _int(metadata, "embedding_length")
    head_dim = _int(metadata, "attention.key_length", default=hidden // max(heads, 1))
    if _int(metadata, "attention.value_length", default=head_dim) != head_dim:
        raise ModelFileError(f"{_ARCH}.attention.value_length must equal key_length ({head_dim}).")
    rotary = _int(metadata, "rope.dimension_count", default=head_dim)
    pad = metadata.get("tokenizer.ggml.padding_token_id")
    return NemotronConfig(
        vocab_size=_int(metadata, "vocab_size", default=vocab_size),
        hidden_size=hidden,
        intermediate_size=_int(metadata, "feed_forward_length"),
        num_hidden_layers=_int(metadata, "block_count"),
        num_attention_heads=heads,
        num_key_value_heads=_int(metadata, "attention.head_count_kv", default=heads),
        head_dim=head_dim,
        max_position_embeddings=_int(metadata, "context_length"),
        norm_eps=_float(metadata, "attention.layer_norm_epsilon", default=1e-5),
        rope_theta=_float(metadata, "rope.freq_base", default=10000.0),
        partial_rotary_factor=_share(rotary, head_dim),
        tie_word_embeddings=not has_output or metadata.get(_IS_TIED) is True,
        bos_token_id=_token(metadata, "bos", default=2),
        eos_token_id=_token(metadata, "eos", default=3),
        pad_token_id=None if pad is None else _token(metadata, "padding", default=0),
    )


def _share(rotary_dim: int, head_dim: int) -> float:
    """The factor from which `int(head_dim * factor)` gives the rotary dimension back, whatever the rounding."""
    factor = rotary_dim / max(head_dim, 1)
    return factor if int(head_dim * factor) == rotary_dim else math.nextafter(factor, math.inf)


def _int(metadata: Mapping[str, Any], name: str, *, default: int | None = None) -> int:
    value = metadata.get(f"{_ARCH}.{name}", default)
    if isinstance(value, list) and value and all(v == value[0] for v in value):
        value = value[0]  # one number a layer, all the same
    if type(value) is not int:
        raise ModelFileError(f"The metadata key {_ARCH}.{name} must be a whole number, got {str(value)[:80]}.")
    return value


def _float(metadata: Mapping[str, Any], name: str, *, default: float) -> float:
    value = metadata.get(f"{_ARCH}.{name}", default)
    if type(value) not in (int, float):
        raise ModelFileError(f"The metadata key {_ARCH}.{name} must be a number, got {str(value)[:80]}.")
    with np.errstate(over="ignore"):
        return float(str(np.float32(value)))  # the file holds float32: its shortest decimal is what was meant


def _token(metadata: Mapping[str, Any], name: str, *, default: int) -> int:
    value = metadata.get(f"tokenizer.ggml.{name}_token_id", default)
    if type(value) is not int or value < 0:
        raise ModelFileError(
            f"The metadata key tokenizer.ggml.{name}_token_id must be a token id, got {str(value)[:80]}."
        )
    return value
