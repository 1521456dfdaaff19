"""LoRA (arXiv 2106.09685): small matrices beside frozen ones, merged into them at the end.

Where it deviates from the paper: any matrix of a block may have adapters, and there is no dropout.
"""

import hashlib
import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from understudy.model.checkpoint import LoadedModel
from understudy.training.model import NemotronLM, hf_names
from understudy.training.recipe import LoraRecipe

__all__ = ["LoraLinear", "adapter_state", "attach_lora", "hash_weights", "merge_lora", "named_adapters"]


class LoraLinear(nn.Module):
    """A frozen matrix whose stacked parts have low-rank matrices beside them: x W' + alpha / rank * x A' B'.

    The parts of packed QKV have an A and a B each, as they have in files that keep q, k and v apart. B begins at zero:
    at first nothing changes. The frozen matrix keeps its name, so that files of the base model fit.
    """

    def __init__(self, base: nn.Linear, rows: Mapping[str, int], recipe: LoraRecipe) -> None:
        """Puts adapters beside a matrix and freezes it.

        Args:
            base: the matrix.
            rows: the number of its rows in each part, by the part's name in Hugging Face's files, in their order.
            recipe: rank, alpha, and which of the parts get adapters.
        """
        super().__init__()
        self.weight = base.weight.requires_grad_(False)
        self.rows, self.rank, self.scale = dict(rows), recipe.rank, recipe.alpha / recipe.rank
        new = base.weight.new_empty
        self.lora_a = nn.ParameterDict(
            {p: nn.Parameter(new(recipe.rank, base.in_features)) for p in rows if p in recipe.modules}
        )
        self.lora_b = nn.ParameterDict({p: nn.Parameter(new(rows[p], recipe.rank)) for p in self.lora_a})
        for part in self.lora_a:
            nn.init.kaiming_uniform_(self.lora_a[part], a=math.sqrt(5))
            nn.init.zeros_(self.lora_b[part])

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., rows)."""
        flat = x.flatten(0, -2)
        down = F.linear(flat, torch.cat([self.lora_a[part] for part in self.rows if part in self.lora_a]))
        # All parts in one product, its sum in the same pass: three passes over the output cost more than the product.
        out = torch.addmm(F.linear(flat, self.weight), down, self._stacked_b().T, alpha=self.scale)
        return out.view(*x.shape[:-1], -1)

    def _stacked_b(self) -> Tensor:
        """(rows, parts * rank): each part's B in its own rows and columns, zeros elsewhere."""
        width = self.rank * len(self.lora_a)
        blocks, start = [], 0
        for part, rows in self.rows.items():
            if part in self.lora_a:
                blocks.append(F.pad(self.lora_b[part], (start, width - start - self.rank)))
                start += self.rank
            else:
                blocks.append(self.weight.new_zeros(rows, width))
        return blocks[0] if len(blocks) == 1 else torch.cat(blocks)

    def merged_weight(self) -> Tensor:
        """(rows, D) matrix that computes the same, a copy."""
        return self._add_to(self.weight.detach().clone())

    def merged(self) -> nn.Linear:
        """A plain matrix that computes the same; the frozen one is changed in place."""
        linear = nn.Linear(self.weight.shape[1], self.weight.shape[0], bias=False, device="meta")
        self._add_to(self.weight)
        linear.weight = self.weight.requires_grad_(True)
        return linear

    @torch.no_grad()
    def _add_to(self, weight: Tensor) -> Tensor:
        for part, block in zip(self.rows, weight.split(list(self.rows.values())), strict=True):
            if part in self.lora_a:
                block.add_(self.lora_b[part] @ self.lora_a[part], alpha=self.scale)
        return weight


def attach_lora(model: NemotronLM, recipe: LoraRecipe) -> None:
    """Freeze a model and put adapters beside the matrices that the recipe names."""
    model.requires_grad_(False)
    config = model.config
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for layer in model.layers:
        for name, linear in list(layer.named_children()):
            if not isinstance(linear, nn.Linear):
                continue
            parts = [part.rsplit(".", 2)[-2] for part in hf_names(f"layers.0.{name}.weight")]
            if len(parts) > 1:
                rows = {p: heads.get(p, config.num_key_value_heads) * config.head_dim for p in parts}
            else:
                rows = {parts[0]: linear.out_features}
            if set(rows) & set(recipe.modules):
                setattr(layer, name, LoraLinear(linear, rows, recipe))


def merge_lora(model: NemotronLM) -> None:
    """Add the adapters to the matrices beside them and take them away."""
    for layer in model.layers:
        for name, linear in list(layer.named_children()):
            if isinstance(linear, LoraLinear):
                setattr(layer, name, linear.merged())
    model.requires_grad_(True)


def adapter_state(model: nn.Module) -> dict[str, Tensor]:
    """The part of a model's state dictionary that belongs to adapters; empty without any."""
    return {name: value for name, value in model.state_dict().items() if ".lora_" in name}


def named_adapters(state: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """A (rank, inputs) and B (outputs, rank) by Hugging Face's name of the matrix that they stand beside.

    Args:
        state: what `adapter_state` gave.
    """
    adapters = {}
    for name, a in state.items():
        stem, marker, part = name.rpartition(".lora_a.")
        if marker:
            target = next(n for n in hf_names(f"{stem}.weight") if n.endswith(f".{part}.weight"))
            adapters[target] = (a, state[f"{stem}.lora_b.{part}"])
    return adapters


def hash_weights(files: LoadedModel) -> str:
    """SHA-256 of a model's weights as they are stored, so that adapters know which model they belong to."""
    digest = hashlib.sha256()
    for name, weight in sorted(files.weights.items()):
        digest.update(f"{name} {weight.kind.name} {weight.shape}\n".encode())
        digest.update(weight.raw.data)
    return digest.hexdigest()
