"""Quantization-aware training: the forward pass sees quantized weights, the gradient goes straight through."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from understudy.kernels.formats import IQ4_LEVELS, StorageType, group_scales
from understudy.quantization.blocks import ENCODED, encode
from understudy.quantization.plan import HEAD, TABLE, Plan
from understudy.training.model import NemotronLM, hf_names

__all__ = ["FakeQuantize", "quantization_aware"]

_F32 = npt.NDArray[np.float32]
_RANGES = {
    StorageType.Q4_0: (-8, 7),
    StorageType.Q8_0: (-127, 127),
    StorageType.Q4_K: (0, 15),
    StorageType.Q6_K: (-32, 31),
}


class FakeQuantize(nn.Module):
    """Weights as their blocks would hold them.

    The scales are searched anew after every `every`-th change of the weights; in between, levels are rounded afresh
    with the scales at hand. The gradient of the quantized weights is taken for the gradient of the weights
    (straight-through: 1308.3432, as in quantization-aware training since 1712.05877).
    """

    def __init__(self, parts: list[tuple[int, StorageType, _F32 | None]], *, every: int) -> None:
        """Describe a matrix that may be several matrices below each other.

        Args:
            parts: of each its rows, its format and its E[x^2] by input, or None.
            every: changes of the weights from one search of the scales to the next.
        """
        super().__init__()
        self._parts = parts
        self._every = every
        self._scales: list[tuple[Tensor, Tensor | None] | None] = [None] * len(parts)
        self._changes = 0
        self._seen: tuple[int, int] | None = None
        self._difference: Tensor | None = None

    def forward(self, weight: Tensor) -> Tensor:
        """(rows, cols) weights to the values that they would have in the file."""
        with torch.no_grad():
            version = (weight.data_ptr(), weight._version)
            if self._difference is None or version != self._seen:
                is_due = self._changes % self._every == 0
                self._changes += 1
                self._seen = version
                self._difference = self._quantized(weight.detach(), is_due) - weight.detach()
        return weight + self._difference

    def _quantized(self, weight: Tensor, is_due: bool) -> Tensor:
        out = []
        start = 0
        for number, (rows, kind, channels) in enumerate(self._parts):
            part = weight[start : start + rows].float()
            start += rows
            if kind not in ENCODED:
                out.append(part if kind is StorageType.F32 else part.half().float())
                continue
            scales = self._scales[number]
            if is_due or scales is None:
                scales = self._scales[number] = _search(part, kind, channels)
            out.append(_rounded(part, kind, *scales))
        return torch.cat(out).to(weight.dtype)


def _search(part: Tensor, kind: StorageType, channels: _F32 | None) -> tuple[Tensor, Tensor | None]:
    raw = encode(part.cpu().numpy(), kind, channels)
    steps, offsets = group_scales(raw, kind, tuple(part.shape))
    offset = None if offsets is None else torch.from_numpy(offsets).to(part.device)
    return torch.from_numpy(steps).to(part.device), offset


def _rounded(part: Tensor, kind: StorageType, steps: Tensor, offsets: Tensor | None) -> Tensor:
    grouped = part.reshape(*steps.shape, -1)
    step = steps[..., None]
    offset = 0.0 if offsets is None else offsets[..., None]
    scaled = torch.where(step == 0, 0.0, (grouped - offset) / step)
    if kind is StorageType.IQ4_XS:
        table = torch.from_numpy(IQ4_LEVELS.astype(np.float32)).to(part.device)
        levels = table[torch.bucketize(scaled, (table[1:] + table[:-1]) / 2)]
    else:
        levels = scaled.round().clamp(*_RANGES[kind])
    return (levels * step + offset).reshape(part.shape)


@contextmanager
def quantization_aware(
    model: NemotronLM, plan: Plan, importance: Mapping[str, _F32] | None = None, *, every: int = 16
) -> Iterator[NemotronLM]:
    """Let a model compute with quantized weights while it is trained.

    Inside, every matrix that the model reads (the head and the input table, too) is as `plan` would store it; its
    parameters are the same objects as before, so an optimizer may be made outside. On leaving, the model has plain
    weights again, and quantizing them by the same plan gives about the values it was trained with.

    Args:
        model: the model in training; changed in place.
        plan: formats of all tensors.
        importance: E[x^2] by matrix.
        every: changes of the weights from one search of the scales to the next.
    """
    importance = importance or {}
    wrapped: list[nn.Module] = []
    try:
        for name, module in list(model.named_modules()):
            if not isinstance(module, nn.Linear | nn.Embedding):
                continue
            parts = [
                (rows, plan.kinds[part], importance.get(_input_of(part, model)))
                for part, rows in _parts(f"{name}.weight", module.weight, model)
            ]
            parametrize.register_parametrization(module, "weight", FakeQuantize(parts, every=every))
            wrapped.append(module)
        yield model
    finally:
        for module in wrapped:
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)


def _parts(name: str, weight: Tensor, model: NemotronLM) -> list[tuple[str, int]]:
    """Hugging Face's names of the matrices in a parameter, and the rows of each."""
    names = hf_names(name)
    if len(names) == 1:
        return [(names[0], len(weight))]
    config = model.config
    heads = (config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads)
    return [(part, count * config.head_dim) for part, count in zip(names, heads, strict=True)]


def _input_of(name: str, model: NemotronLM) -> str:
    """The matrix whose input a tensor multiplies: a tied table is the head."""
    return HEAD if name == TABLE and model.config.tie_word_embeddings else name
