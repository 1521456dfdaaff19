"""Which optimizer moves which weight, and how fast at each step."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from understudy.training.model import NemotronLM
from understudy.training.muon import Muon
from understudy.training.recipe import OptimizerRecipe

__all__ = ["learning_rate_scale", "make_optimizers"]


def make_optimizers(
    model: NemotronLM, recipe: OptimizerRecipe, *, others: Iterable[nn.Parameter] = ()
) -> list[torch.optim.Optimizer]:
    """Optimizers of all parameters that want gradients; each group keeps its unscaled rate as `base_lr`.

    Args:
        model: whose matrices in blocks go to Muon (or to AdamW with weight decay), whose tables, head and norms go to
            AdamW without decay.
        recipe: rates and kind.
        others: parameters beside the model's, for AdamW.
    """
    matrices: list[Tensor] = []
    groups: list[dict[str, Any]] = []
    config = model.config
    n, k, h = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.startswith("layers.") and parameter.dim() == 2:
            matrices.append(parameter)
        else:
            lr = recipe.embedding_lr if name == "embed_tokens.weight" else recipe.adam_lr
            groups.append({"params": [parameter], "lr": lr})
        if name.endswith("qkv_proj.weight"):
            parameter.row_blocks = [n * h, k * h, k * h]  # type: ignore[attr-defined]
    groups += [{"params": [parameter], "lr": recipe.adam_lr} for parameter in others]
    optimizers: list[torch.optim.Optimizer] = []
    if recipe.kind == "adamw" and matrices:
        groups.append({"params": matrices, "lr": recipe.adam_lr, "weight_decay": recipe.adam_weight_decay})
    elif matrices:
        optimizers.append(Muon(matrices, lr=recipe.muon_lr, weight_decay=recipe.muon_weight_decay))  # type: ignore[arg-type]
    if groups:
        adam = torch.optim.AdamW(groups, lr=recipe.adam_lr, betas=recipe.adam_betas, weight_decay=0.0, fused=True)
        optimizers.append(adam)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
    return optimizers


def learning_rate_scale(recipe: OptimizerRecipe, step: int, total: int) -> float:
    """Factor of all rates at a step.

    "linear": warm-up, plateau, linear decay over the last `decay_share` of the run; "cosine": warm-up, then half a
    cosine over the rest of the run. Both end near `final_lr_share`.
    """
    warm = min(1.0, (step + 1) / max(1, recipe.warmup_steps))
    if recipe.schedule == "cosine":
        done = (step - recipe.warmup_steps) / max(1, total - recipe.warmup_steps)
        decay = (1 + math.cos(math.pi * min(1.0, max(0.0, done)))) / 2
    else:
        decay = min(1.0, (total - step) / max(1.0, recipe.decay_share * total))
    return warm * (recipe.final_lr_share + (1 - recipe.final_lr_share) * decay)
