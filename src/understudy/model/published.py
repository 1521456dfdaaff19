"""Shapes of the published Nemotron models, by name."""

from understudy.model.config import NemotronConfig

__all__ = ["PUBLISHED_SHAPES"]


def _shape(hidden_size: int, num_attention_heads: int, intermediate_size: int) -> NemotronConfig:
    return NemotronConfig(
        vocab_size=256000,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=32,
        num_attention_heads=num_attention_heads,
        num_key_value_heads=8,
        head_dim=128,
    )


PUBLISHED_SHAPES = {
    "nemotron-mini-4b": _shape(3072, 24, 9216),
    "minitron-8b": _shape(4096, 48, 16384),
    "nemotron-4-15b": _shape(6144, 48, 24576),
}
