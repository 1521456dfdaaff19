"""How long a training takes and how much memory, told before it runs."""

import functools
import time

import torch

from understudy.model.config import NemotronConfig
from understudy.pipeline.stage import Estimate
from understudy.training.precision import has_fast_bf16
from understudy.training.recipe import Recipe

__all__ = ["estimate_pass", "estimate_training", "machine_flops"]

_EFFICIENCY = 0.35
"""Share of a plain matrix product's speed that training reaches: 320 to 370 of 920 GFLOP/s where it was measured."""
_LIBRARIES_BYTES = 500_000_000
"""What PyTorch itself takes."""
_ACTIVATION_FLOATS = 34
"""Floats that a token leaves in each layer for the backward pass, by hidden channel, norms and MLP included."""


@functools.cache
def machine_flops() -> float:
    """Floating-point operations a second of a matrix product in training's type on this machine, all threads."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if has_fast_bf16(device) else torch.float32
    size = 1024
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = 0.0
    for _ in range(4):
        began = time.monotonic()
        for _ in range(4):
            a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = max(best, 8 * size**3 / (time.monotonic() - began))
    return best


def estimate_training(recipe: Recipe, *, teacher: NemotronConfig | None = None) -> Estimate:
    """What a training takes: 6 operations a weight and token, 2 more a weight of the teacher.

    Args:
        recipe: what is trained.
        teacher: of a distillation.
    """
    tokens = sum(stage.steps * stage.batch_tokens for stage in recipe.stages)
    operations = tokens * (6.0 * _active(recipe.model) + (2.0 * _active(teacher) if teacher else 0.0))
    config = recipe.model
    batch = max(stage.batch_tokens for stage in recipe.stages)
    # Weights, gradients and two moments; activations of a step; the teacher's weights.
    memory = 16 * config.num_parameters + 4 * (teacher.num_parameters if teacher else 0)
    memory += 4 * batch * config.num_hidden_layers * config.hidden_size * _ACTIVATION_FLOATS
    return Estimate(
        seconds=operations / (machine_flops() * _EFFICIENCY),
        memory_bytes=_LIBRARIES_BYTES + memory,
        what=f"{recipe.total_steps:,} steps, {tokens / 1e6:,.1f}M tokens, {config.num_parameters / 1e6:,.1f}M weights",
    )


def estimate_pass(config: NemotronConfig, *, tokens: int, what: str) -> Estimate:
    """What reading so many tokens takes, a layer at a time."""
    layer = _active(config) // config.num_hidden_layers
    return Estimate(
        seconds=tokens * 2.0 * _active(config) / (machine_flops() * _EFFICIENCY),
        memory_bytes=_LIBRARIES_BYTES
        + 4 * (layer + 3 * tokens * config.hidden_size)
        + 4 * config.vocab_size * config.hidden_size,
        what=what,
    )


def _active(config: NemotronConfig) -> int:
    """Weights that a token is multiplied by: all but the input table."""
    return config.num_parameters - config.vocab_size * config.hidden_size * (0 if config.tie_word_embeddings else 1)
