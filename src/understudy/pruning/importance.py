"""How much each head, neuron, channel and layer matters, from one pass over calibration batches.

After Minitron (arXiv 2407.14679, section 2.2): forward passes only, all axes at once. Kept are not scores but their
moments over the samples, so that one pass serves all nine aggregations.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from understudy.errors import DataError
from understudy.model.checkpoint import LoadedModel
from understudy.training.streaming import LayerWalk, walk_layers

__all__ = ["Aggregation", "Importance", "Moments", "Reduction", "load_importance", "measure_importance"]

Reduction = Literal["mean", "l2", "var"]
_REDUCTIONS: tuple[Reduction, ...] = get_args(Reduction)
_FORMAT = "1"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Aggregation:
    """How a unit's activations become one number: first over a sample's tokens, then over the samples.

    "mean" is the mean of absolute values, "l2" the root of the sum of squares, "var" the variance (divided by n).
    Minitron's best is the default.
    """

    batch: Reduction = "l2"
    sequence: Reduction = "mean"

    def __post_init__(self) -> None:
        for name in ("batch", "sequence"):
            if getattr(self, name) not in _REDUCTIONS:
                raise DataError(
                    f"aggregation: {name} must be one of {', '.join(_REDUCTIONS)}, got {getattr(self, name)!r}."
                )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Moments:
    """Per-sample values of units, summed up over the samples.

    Attributes:
        mean: (3, groups, units) float64, for each of the reductions mean, l2 and var over a sample's tokens.
        square_sum: (3, groups, units) float64, squared distances from `mean`, summed over the samples.
    """

    mean: Tensor
    square_sum: Tensor

    def scores(self, aggregation: Aggregation, num_samples: int) -> Tensor:
        """Scores (groups, units), float64."""
        row = _REDUCTIONS.index(aggregation.sequence)
        mean, square_sum = self.mean[row], self.square_sum[row]
        if aggregation.batch == "mean":
            return mean.clone()
        if aggregation.batch == "var":
            return square_sum / num_samples
        return (square_sum + num_samples * mean.square()).sqrt()


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Importance:
    """What calibration found; saved as safetensors that describe themselves.

    Attributes:
        heads: groups are layers, units query heads: the L2 norm of a head's output (a stretch of o_proj's input).
        neurons: groups are layers, units MLP neurons: the activation behind the squared ReLU.
        channels: groups are the 2 L norms inside the layers, input and post-attention norm in turn, units embedding
            channels: the norm's output.
        layers: (L,) block importance: 1 - mean cosine of the residual stream in front of and behind a layer.
        num_samples: rows of the calibration batches.
        num_tokens: tokens of the calibration batches.
        calibration: SHA-256 of the calibration ids.
        source: where the model came from.
    """

    heads: Moments
    neurons: Moments
    channels: Moments
    layers: Tensor
    num_samples: int
    num_tokens: int
    calibration: str
    source: str

    def head_scores(self, aggregation: Aggregation | None = None) -> Tensor:
        """Scores (L, N) of query heads."""
        return self.heads.scores(aggregation or Aggregation(), self.num_samples)

    def neuron_scores(self, aggregation: Aggregation | None = None) -> Tensor:
        """Scores (L, F) of MLP neurons."""
        return self.neurons.scores(aggregation or Aggregation(), self.num_samples)

    def channel_scores(self, aggregation: Aggregation | None = None) -> Tensor:
        """Scores (D,) of embedding channels, summed over the norms of all layers."""
        return self.channels.scores(aggregation or Aggregation(), self.num_samples).sum(0)

    def save(self, path: Path) -> None:
        """Write a safetensors file that appears only when it is complete.

        Raises:
            DataError: the disk refuses.
        """
        axes = {"heads": self.heads, "neurons": self.neurons, "channels": self.channels}
        tensors = {f"{axis}.mean": moments.mean for axis, moments in axes.items()}
        tensors |= {f"{axis}.square_sum": moments.square_sum for axis, moments in axes.items()}
        facts = {name: getattr(self, name) for name in ("num_samples", "num_tokens", "calibration", "source")}
        part = path.with_name(path.name + ".part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(
                {**tensors, "layers": self.layers},
                part,
                metadata={"understudy.importance": json.dumps({"format": _FORMAT, **facts}, sort_keys=True)},
            )
            part.replace(path)
        except OSError as error:
            raise DataError(f"{path} cannot be written: {error}; make room or choose another folder.") from error


def load_importance(path: Path, files: LoadedModel) -> Importance:
    """Read what `Importance.save` wrote, for a model of the same shape.

    Raises:
        DataError: no such file, another kind of file, or importance of a model of another shape.
    """
    try:
        with safe_open(path, framework="pt") as opened:
            facts = json.loads((opened.metadata() or {}).get("understudy.importance", "{}"))
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise DataError(f"{path} is no readable importance file: {error}; measure importance again.") from error
    config = files.config
    layers = config.num_hidden_layers
    groups = {
        "heads": (3, layers, config.num_attention_heads),
        "neurons": (3, layers, config.intermediate_size),
        "channels": (3, 2 * layers, config.hidden_size),
    }
    shapes: dict[str, tuple[int, ...]] = {f"{a}.{m}": s for a, s in groups.items() for m in ("mean", "square_sum")}
    shapes["layers"] = (layers,)
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if facts.get("format") != _FORMAT or found != shapes:
        raise DataError(
            f"{path} holds {found or 'nothing'}; expected importance of a model of this shape ({shapes}): measure it "
            "on this model."
        )
    return Importance(
        **{a: Moments(mean=tensors[f"{a}.mean"], square_sum=tensors[f"{a}.square_sum"]) for a in groups},
        layers=tensors["layers"],
        num_samples=int(facts["num_samples"]),
        num_tokens=int(facts["num_tokens"]),
        calibration=str(facts["calibration"]),
        source=str(facts["source"]),
    )


def measure_importance(
    files: LoadedModel,
    batches: Sequence[Tensor],
    *,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Importance:
    """Score all axes in one streaming pass; the same model, batches and thread count give the same numbers.

    Args:
        files: the model; one layer of it is in memory at a time.
        batches: (B, T) ids each, each row a sample. Rows of one length: "l2" over a sample's tokens grows with it.
        device: where to compute.
        progress: told how many of how many batches of layers are done.

    Raises:
        DataError: no batches, ids beyond the vocabulary, or activations that are not finite.
    """
    if not batches:
        raise DataError("Importance needs at least one calibration batch, got none.")
    config = files.config
    layers, num_tokens = config.num_hidden_layers, sum(ids.numel() for ids in batches)
    heads = _Accumulator(layers, config.num_attention_heads)
    neurons = _Accumulator(layers, config.intermediate_size)
    channels = _Accumulator(2 * layers, config.hidden_size)
    blocks = torch.zeros(layers, dtype=torch.float64)
    for done, record in enumerate(walk_layers(files, batches, device=device), 1):
        if not isinstance(record, LayerWalk):
            break
        outputs = record.heads.unflatten(-1, (config.num_attention_heads, config.head_dim))
        heads.add(record.layer, outputs.norm(dim=-1))
        neurons.add(record.layer, record.neurons)
        channels.add(2 * record.layer, record.attention_input)
        channels.add(2 * record.layer + 1, record.mlp_input)
        blocks[record.layer] += _turned(record).sum(dtype=torch.float64).cpu() / num_tokens
        if progress:
            progress(done, layers * len(batches))
    result = Importance(
        heads=heads.moments(),
        neurons=neurons.moments(),
        channels=channels.moments(),
        layers=blocks,
        num_samples=sum(len(ids) for ids in batches),
        num_tokens=num_tokens,
        calibration=_digest(batches),
        source=files.path.name,
    )
    if not all(m.mean.isfinite().all() for m in (result.heads, result.neurons, result.channels)):
        raise DataError(f"{files.path}: activations on the calibration texts are not finite; the model is damaged.")
    return result


class _Accumulator:
    """Running mean and spread over samples (Chan's update), so that no activation is held."""

    def __init__(self, groups: int, units: int) -> None:
        self._mean = torch.zeros(3, groups, units, dtype=torch.float64)
        self._square_sum = torch.zeros(3, groups, units, dtype=torch.float64)
        self._count = [0] * groups

    def add(self, group: int, values: Tensor) -> None:
        """Take in (B, T, units)."""
        samples = torch.stack(
            (values.abs().mean(1), values.norm(dim=1), values.var(1, correction=0))  # in the order of _REDUCTIONS
        ).to("cpu", torch.float64)
        before, added = self._count[group], values.shape[0]
        mean = samples.mean(1)
        shift = mean - self._mean[:, group]
        self._count[group] = total = before + added
        self._square_sum[:, group] += (samples - mean[:, None]).square().sum(
            1
        ) + shift.square() * before * added / total
        self._mean[:, group] += shift * (added / total)

    def moments(self) -> Moments:
        return Moments(mean=self._mean, square_sum=self._square_sum)


def _turned(record: LayerWalk) -> Tensor:
    """How far a layer turns the residual stream, 1 - cosine, of each token (B, T)."""
    return 1 - F.cosine_similarity(record.before, record.after, dim=-1)


def _digest(batches: Sequence[Tensor]) -> str:
    digest = hashlib.sha256()
    for ids in batches:
        digest.update(f"{tuple(ids.shape)}".encode())
        digest.update(ids.cpu().numpy().astype(np.dtype("<i8")).tobytes())
    return digest.hexdigest()
