"""Fewer heads, neurons and channels (Minitron, arXiv 2407.14679, section 2.3).

Every axis is sorted once, the most important unit first, and a smaller model is a prefix of each axis.

What is merged when query heads are dropped: inside a KV group of L heads sorted by importance, of which K are kept, the
query projection of kept head i becomes 2 q_i - q_(2K-i+1) for i from max(1, 2K-L+1) to K, so that the least important
kept head meets the most important dropped one. As the paper says for grouped queries, only query heads are merged: keys
and values are shared by the group and stay, and the columns of `o_proj` are cut, not merged. Dropped heads beyond 2K
have no partner. The paper sees a gain; on the embedded model, two of four heads dropped, the merge costs 0.2 to 0.4
nats before any distillation, whichever heads are dropped, so `merge_heads` is worth a try either way.

Channels: norms are computed over the channels that are left, and nothing makes up for the changed mean and variance;
the distillation that follows does.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from understudy.errors import RecipeError
from understudy.model.config import NemotronConfig
from understudy.pruning.importance import Aggregation, Importance
from understudy.pruning.tensors import LazyTensors

__all__ = ["WidthOrder", "WidthTarget", "order_by_importance", "prune_width", "random_order"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class WidthTarget:
    """Sizes of the smaller model; None leaves an axis as it is, bit for bit.

    Attributes:
        hidden_size: embedding channels.
        intermediate_size: MLP neurons.
        num_attention_heads: query heads; the KV heads stay, so a multiple of their number.
        multiple_of: what hidden_size, intermediate_size and N * H must be multiples of; 256 for the K-quants of GGUF.
        merge_heads: whether kept heads take up dropped ones.
    """

    hidden_size: int | None = None
    intermediate_size: int | None = None
    num_attention_heads: int | None = None
    multiple_of: int = 1
    merge_heads: bool = True

    def __post_init__(self) -> None:
        for name in ("hidden_size", "intermediate_size", "num_attention_heads", "multiple_of"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise RecipeError(f"{name} must be at least 1, got {value}.")

    def apply(self, config: NemotronConfig) -> NemotronConfig:
        """The smaller model's shape.

        Raises:
            RecipeError: a size is larger than the model's, or no multiple of what it must be.
        """
        names = ("hidden_size", "intermediate_size", "num_attention_heads")
        sizes = {name: getattr(self, name) or getattr(config, name) for name in names}
        for name, size in sizes.items():
            if size > getattr(config, name):
                raise RecipeError(f"{name} {size} is more than the model has ({getattr(config, name)}); choose less.")
        if sizes["num_attention_heads"] % config.num_key_value_heads:
            raise RecipeError(
                f"num_attention_heads {sizes['num_attention_heads']} must be a multiple of the model's "
                f"{config.num_key_value_heads} KV heads, which all stay."
            )
        rows = {**sizes, "num_attention_heads * head_dim": sizes["num_attention_heads"] * config.head_dim}
        del rows["num_attention_heads"]
        for name, size in rows.items():
            if size % self.multiple_of:
                raise RecipeError(f"{name} {size} must be a multiple of {self.multiple_of}, as was asked for.")
        return dataclasses.replace(config, **sizes)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class WidthOrder:
    """Units of each axis, the most important first.

    Attributes:
        heads: (L, K, N / K) numbers of query heads, sorted inside each KV group.
        neurons: (L, F) numbers of MLP neurons.
        channels: (D,) numbers of embedding channels.
    """

    heads: Tensor
    neurons: Tensor
    channels: Tensor


def order_by_importance(
    importance: Importance, config: NemotronConfig, *, aggregation: Aggregation | None = None
) -> WidthOrder:
    """Sort every axis by importance; of equals the one with the lower number comes first."""
    return _order(
        importance.head_scores(aggregation),
        importance.neuron_scores(aggregation),
        importance.channel_scores(aggregation),
        config,
    )


def random_order(config: NemotronConfig, *, seed: int) -> WidthOrder:
    """Shuffle every axis: the ablation that shows what importance is worth."""
    generator = torch.Generator().manual_seed(seed)
    layers = config.num_hidden_layers
    return _order(
        torch.rand(layers, config.num_attention_heads, generator=generator),
        torch.rand(layers, config.intermediate_size, generator=generator),
        torch.rand(config.hidden_size, generator=generator),
        config,
    )


def prune_width(
    tensors: Mapping[str, Tensor], config: NemotronConfig, order: WidthOrder, target: WidthTarget
) -> tuple[LazyTensors, NemotronConfig]:
    """Cut every axis to a prefix of its order; an axis that keeps its size is left as it is.

    Args:
        tensors: by Hugging Face's names, norms without the 1 of LayerNorm1P.
        config: the model's shape.
        order: of the units of this very model.
        target: the sizes.

    Returns:
        The smaller model's tensors, made on access, and its shape.

    Raises:
        RecipeError: a size is larger than the model's or no multiple of what it must be, or the order is of a model
            of another shape.
    """
    smaller = target.apply(config)
    expected = (config.num_hidden_layers, config.intermediate_size), (config.hidden_size,)
    if (tuple(order.neurons.shape), tuple(order.channels.shape)) != expected:
        raise RecipeError(
            f"The order sorts {tuple(order.neurons.shape)} neurons and {tuple(order.channels.shape)} channels, the "
            f"model has {expected[0]} and {expected[1]}; measure importance on this model."
        )
    cut = _Cut(tensors, config, smaller, order, merge=target.merge_heads)
    return LazyTensors({name: cut.maker(name) for name in tensors}), smaller


class _Cut:
    """Which rows and columns of each tensor stay."""

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        config: NemotronConfig,
        smaller: NemotronConfig,
        order: WidthOrder,
        *,
        merge: bool,
    ) -> None:
        self._tensors, self._config, self._smaller, self._order, self._merge = tensors, config, smaller, order, merge

    def maker(self, name: str) -> Callable[[], Tensor]:
        """What makes a tensor of the smaller model."""
        return partial(self._make, name)

    def _make(self, name: str) -> Tensor:
        tensor = self._tensors[name]
        parts = name.split(".")
        if parts[1] != "layers":  # the two tables, (V, D), and the last norm, (D,)
            return self._channels(tensor, -1)
        layer, kind = int(parts[2]), parts[-2]
        if kind == "q_proj":
            return self._query_heads(self._channels(tensor, 1), layer)
        if kind == "o_proj":
            return self._channels(self._head_columns(tensor, layer), 0)
        if kind == "up_proj":
            return self._channels(self._neurons(tensor, layer, 0), 1)
        if kind == "down_proj":
            return self._channels(self._neurons(tensor, layer, 1), 0)
        return self._channels(tensor, -1)  # k_proj, v_proj, norms

    def _channels(self, tensor: Tensor, dim: int) -> Tensor:
        size = self._smaller.hidden_size
        return tensor if size == self._config.hidden_size else tensor.index_select(dim, self._order.channels[:size])

    def _neurons(self, tensor: Tensor, layer: int, dim: int) -> Tensor:
        size = self._smaller.intermediate_size
        if size == self._config.intermediate_size:
            return tensor
        return tensor.index_select(dim, self._order.neurons[layer, :size])

    def _query_heads(self, tensor: Tensor, layer: int) -> Tensor:
        """Rows of the heads that stay, (N * H, D)."""
        had, kept = self._heads_a_group
        if had == kept:
            return tensor
        heads = tensor.unflatten(0, (self._config.num_attention_heads, self._config.head_dim))
        grouped = heads[self._order.heads[layer]]  # (K, N / K, H, D), the most important first
        out = grouped[:, :kept].clone()
        if self._merge:
            first = max(0, 2 * kept - had)
            partners = grouped[:, kept : 2 * kept - first].flip(1)
            out[:, first:] += out[:, first:] - partners
        rows: Tensor = out.flatten(0, 2)
        return rows

    def _head_columns(self, tensor: Tensor, layer: int) -> Tensor:
        """Columns of the heads that stay, (D, N * H)."""
        had, kept = self._heads_a_group
        if had == kept:
            return tensor
        heads = tensor.unflatten(1, (self._config.num_attention_heads, self._config.head_dim))
        columns: Tensor = heads[:, self._order.heads[layer, :, :kept].flatten()].flatten(1)
        return columns

    @property
    def _heads_a_group(self) -> tuple[int, int]:
        groups = self._config.num_key_value_heads
        return self._config.num_attention_heads // groups, self._smaller.num_attention_heads // groups


def _order(heads: Tensor, neurons: Tensor, channels: Tensor, config: NemotronConfig) -> WidthOrder:
    grouped = heads.unflatten(1, (config.num_key_value_heads, -1))
    first = torch.arange(config.num_key_value_heads)[:, None] * grouped.shape[2]
    return WidthOrder(
        heads=grouped.argsort(dim=2, descending=True, stable=True) + first,
        neurons=neurons.argsort(dim=1, descending=True, stable=True),
        channels=channels.argsort(descending=True, stable=True),
    )
