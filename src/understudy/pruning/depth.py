"""Fewer layers: by block importance, or by the loss without them (Minitron, arXiv 2407.14679, section 2.2)."""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from understudy.errors import DataError, RecipeError
from understudy.model.checkpoint import LoadedModel
from understudy.model.config import NemotronConfig
from understudy.model.weights import Weight
from understudy.pruning.tensors import LazyTensors
from understudy.training.model import rotary_tables
from understudy.training.streaming import LayerStreamer

__all__ = ["choose_layers", "layer_runs", "losses_without", "prune_depth"]

_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
_SLAB_ROWS = 8192
"""Rows of the output table that are unpacked at a time."""


def choose_layers(scores: Tensor, *, keep: int, contiguous: bool = False) -> list[int]:
    """Numbers of the layers that stay, ascending.

    Args:
        scores: (L,), higher is more important: block importance, or what the loss rises by without the layer.
        keep: number of layers that stay.
        contiguous: drop one run of neighbours (the run whose scores sum to the least) instead of the least important
            ones wherever they stand.

    Raises:
        RecipeError: `keep` is not between 1 and L.
    """
    layers = len(scores)
    if not 1 <= keep <= layers:
        raise RecipeError(f"The number of layers that stay must be from 1 to {layers}, got {keep}.")
    dropped = layers - keep
    if contiguous and dropped:
        sums = scores.to(torch.float64).unfold(0, dropped, 1).sum(1)
        start = int(sums.argmin())
        return [n for n in range(layers) if not start <= n < start + dropped]
    return sorted(scores.argsort(descending=True, stable=True)[:keep].tolist())


def layer_runs(num_layers: int, length: int) -> list[frozenset[int]]:
    """Every run of `length` neighbouring layers, for `losses_without`; length 1 for single layers."""
    return [frozenset(range(start, start + length)) for start in range(num_layers - length + 1)]


def prune_depth(
    tensors: Mapping[str, Tensor], config: NemotronConfig, kept: Sequence[int]
) -> tuple[LazyTensors, NemotronConfig]:
    """Leave out layers and renumber the rest.

    Args:
        tensors: by Hugging Face's names.
        config: the model's shape.
        kept: numbers of the layers that stay, ascending.

    Raises:
        RecipeError: no layers, layers that are not there, or not ascending.
    """
    if not kept or list(kept) != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= config.num_hidden_layers:
        raise RecipeError(
            f"Layers that stay must be ascending numbers from 0 to {config.num_hidden_layers - 1}, got {list(kept)}."
        )
    number = {old: new for new, old in enumerate(kept)}
    makers: dict[str, Callable[[], Tensor]] = {}
    for name in tensors:
        match = _LAYER.fullmatch(name)
        if match is None:
            makers[name] = partial(tensors.__getitem__, name)
        elif int(match[1]) in number:
            makers[f"model.layers.{number[int(match[1])]}.{match[2]}"] = partial(tensors.__getitem__, name)
    return LazyTensors(makers), dataclasses.replace(config, num_hidden_layers=len(kept))


def losses_without(
    files: LoadedModel,
    batches: Sequence[Tensor],
    skips: Sequence[frozenset[int]],
    *,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[float, Tensor]:
    """Mean next-token loss of the whole model, and without each set of layers; perplexity is its exponential.

    Each layer is read once for all sets: a set's residual stream leaves the whole model's at its first layer. All
    streams are in memory, (len(skips) + 1) * tokens * D floats, so a few thousand tokens must do.

    Args:
        files: the model.
        batches: (B, T) ids each, T at least 2.
        skips: sets of layers to leave out, none of them empty; see `layer_runs`.
        device: where to compute.
        progress: told how many of how many layers are done.

    Returns:
        Nats a token of the whole model, and of (len(skips),) without each set.

    Raises:
        RecipeError: an empty set, or a layer that is not there.
        DataError: no batches, or rows of less than two tokens.
    """
    layers = files.config.num_hidden_layers
    if any(not skip or min(skip) < 0 or max(skip) >= layers for skip in skips):
        raise RecipeError(f"Layers to leave out must be sets of numbers from 0 to {layers - 1}, none empty.")
    if not batches or min(ids.shape[-1] for ids in batches) < 2:
        raise DataError("The loss needs calibration batches of rows with at least two tokens.")
    streamer = LayerStreamer(files, device=device)
    whole = [streamer.embed(ids) for ids in batches]
    without: dict[int, list[Tensor]] = {}
    for layer in range(layers):
        without |= {n: list(whole) for n, skip in enumerate(skips) if min(skip) == layer}
        block = streamer.load_layer(layer)
        running = [whole, *(streams for n, streams in without.items() if layer not in skips[n])]
        for number, ids in enumerate(batches):
            cos, sin = rotary_tables(files.config, ids.shape[1], whole[0].device)
            with torch.no_grad():
                for streams in running:
                    streams[number] = block(streams[number], cos, sin)
        if progress:
            progress(layer + 1, layers)
    norm = streamer.load_norm()
    table = files.weights.get("lm_head.weight") or files.weights["model.embed_tokens.weight"]
    with torch.no_grad():
        ends = (whole, *(without[n] for n in range(len(skips))))
        states = [torch.cat([norm(x)[:, :-1].flatten(0, 1) for x in streams]) for streams in ends]
    targets = torch.cat([ids[:, 1:].flatten() for ids in batches]).to(states[0].device)
    losses = _mean_losses(states, table, targets)
    return float(losses[0]), losses[1:]


def _mean_losses(states: Sequence[Tensor], table: Weight, targets: Tensor) -> Tensor:
    """Mean cross-entropy of each of several (T, D) states, the output table unpacked a slab at a time."""
    total = torch.full((len(states), len(targets)), -math.inf, device=targets.device)
    picked = torch.zeros_like(total)
    for start in range(0, table.shape[0], _SLAB_ROWS):
        rows = range(start, min(start + _SLAB_ROWS, table.shape[0]))
        slab = torch.from_numpy(table.rows(rows)).to(targets.device)
        inside = ((targets >= start) & (targets < rows.stop)).nonzero().squeeze(1)
        for number, state in enumerate(states):
            logits = state @ slab.T
            total[number] = torch.logaddexp(total[number], logits.logsumexp(1))
            picked[number, inside] = logits[inside, targets[inside] - start]
    return (total - picked).to(torch.float64).mean(1).cpu()
