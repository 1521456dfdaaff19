"""Error feedback after the range search: what a column loses by rounding, the columns behind it make good.

GPTQ (Frantar et al., 2210.17323), with two deviations. Our block formats have scales for 16 to 256 values, which cannot
be chosen column by column: they are fixed by the range search first, and the feedback only chooses levels. And a
neuron that never fired keeps its rounded weights; the paper sets them to zero, which would silence it for good.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from understudy.errors import RecipeError
from understudy.kernels.formats import StorageType
from understudy.model.checkpoint import LoadedModel
from understudy.model.weights import Weight
from understudy.quantization.grid import BlockGrid
from understudy.training.model import BlockStates, rotary_tables
from understudy.training.streaming import LayerStreamer

__all__ = ["Encode", "Feedback", "GptqSettings", "Hessian", "RoundedMatrix", "Rounder", "feed_back", "quantize_layers"]

_F32 = npt.NDArray[np.float32]
_U8 = npt.NDArray[np.uint8]
Encode = Callable[[_F32, StorageType, _F32], _U8]
"""(rows, cols) values, a format, (cols,) E[x^2] of the inputs -> packed bytes."""

_INPUTS = {
    "attention_input": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "heads": ("self_attn.o_proj",),
    "mlp_input": ("mlp.up_proj",),
    "neurons": ("mlp.down_proj",),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class GptqSettings:
    """How errors are fed back.

    Attributes:
        damping: added to the Hessian's diagonal, as a share of its mean.
        tries: how often the damping is raised tenfold where the Hessian cannot be factorized.
        block_columns: columns between two updates of all columns behind.
        max_columns: widest Hessian; wider inputs get several on the diagonal, and no feedback from one to another.
            4096 columns take 64 MiB, and three times that while they are inverted.
        by_strength: round the columns with the strongest inputs first.
    """

    damping: float = 0.01
    tries: int = 3
    block_columns: int = 128
    max_columns: int = 4096
    by_strength: bool = True

    def __post_init__(self) -> None:
        if not 0.0 < self.damping < 10.0:
            raise RecipeError(f"damping must be above 0 and below 10, got {self.damping}.")
        for name in ("tries", "block_columns", "max_columns"):
            if getattr(self, name) < 1:
                raise RecipeError(f"{name} must be at least 1, got {getattr(self, name)}.")


class Rounder(Protocol):
    """A grid whose scales are fixed, such as `BlockGrid`."""

    def round(self, column: int, values: Tensor) -> tuple[Tensor, Tensor]:
        """(rows,) values of a column to levels and to the values that these stand for."""
        ...


class Hessian:
    """E[x x^T] of a matrix's inputs, in blocks on the diagonal where there are more columns than allowed."""

    def __init__(self, columns: int, *, max_columns: int = 4096, device: torch.device | str = "cpu") -> None:
        self.columns, self.num_samples = columns, 0
        count = -(-columns // max_columns)
        edges = [columns * index // count for index in range(count + 1)]
        self.spans = tuple(slice(a, b) for a, b in itertools.pairwise(edges))
        self._sums = [torch.zeros(s.stop - s.start, s.stop - s.start, device=device) for s in self.spans]

    def add(self, x: Tensor) -> None:
        """Take in inputs of (..., columns)."""
        rows = x.reshape(-1, self.columns).float()
        self.num_samples += len(rows)
        for span, total in zip(self.spans, self._sums, strict=True):
            part = rows[:, span]
            total.addmm_(part.T, part)

    def means(self) -> Iterator[tuple[slice, Tensor]]:
        """Each block's columns and its mean, (n, n)."""
        for span, total in zip(self.spans, self._sums, strict=True):
            yield span, total / max(1, self.num_samples)

    def strengths(self) -> _F32:
        """E[x^2] of each column, (columns,)."""
        means = torch.cat([total.diagonal() for total in self._sums]) / max(1, self.num_samples)
        out: _F32 = means.cpu().numpy()
        return out


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Feedback:
    """A rounded matrix.

    Attributes:
        levels: (rows, cols) int16, for the grid's `pack`.
        values: (rows, cols) float32, what the levels stand for.
        damping: largest damping that was needed, None where a block was rounded plainly.
        note: what went wrong, "" if nothing.
    """

    levels: Tensor
    values: Tensor
    damping: float | None
    note: str


def feed_back(weight: Tensor, grid: Rounder, hessian: Hessian, settings: GptqSettings | None = None) -> Feedback:
    """Round a matrix to a grid, column by column, each column's error taken up by the columns not yet rounded.

    Where a block of the Hessian cannot be factorized even with the largest damping, its columns are rounded plainly.

    Args:
        weight: (rows, cols) float32.
        grid: where a column's values may lie.
        hessian: of the inputs.
        settings: GptqSettings() by default.
    """
    settings = settings or GptqSettings()
    columns = weight.shape[1]
    levels = torch.empty(columns, len(weight), dtype=torch.int16)
    values = torch.empty(columns, len(weight))
    left = weight.T.contiguous().clone()  # a row for each column, so that one is a stretch of memory
    damping: float | None = 0.0
    notes = []
    for span, mean in hessian.means():
        order = torch.argsort(mean.diagonal(), descending=True) if settings.by_strength else torch.arange(len(mean))
        factor, used = _inverse_factor(mean[order][:, order], settings)
        if factor is None:
            notes.append(f"columns {span.start} to {span.stop - 1} rounded plainly: their Hessian is not positive")
        damping = None if factor is None or damping is None else max(damping, used)
        _round_span(left, order + span.start, factor, grid, settings.block_columns, levels, values)
    return Feedback(levels=levels.T.contiguous(), values=values.T.contiguous(), damping=damping, note="; ".join(notes))


def _inverse_factor(mean: Tensor, settings: GptqSettings) -> tuple[Tensor | None, float]:
    """Upper Cholesky factor of the damped Hessian's inverse, and the damping; no factor where there is none."""
    diagonal = mean.diagonal()
    fired = diagonal > 0
    if not bool(fired.any()) or not bool(torch.isfinite(mean).all()):
        return None, 0.0
    typical = float(diagonal[fired].mean())
    for power in range(settings.tries):
        damping = settings.damping * 10.0**power
        damped = mean.clone()
        # A column that never fired is alone with its diagonal: no error goes in or out.
        damped.diagonal().copy_(torch.where(fired, diagonal + damping * typical, typical))
        lower, failed = torch.linalg.cholesky_ex(damped)
        if int(failed):
            continue
        upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
        if not int(failed) and bool(torch.isfinite(upper).all()):
            return upper, damping
    return None, 0.0


def _round_span(
    left: Tensor,
    order: Tensor,
    factor: Tensor | None,
    grid: Rounder,
    block_columns: int,
    levels: Tensor,
    values: Tensor,
) -> None:
    """Round the columns of one block in the order given; `left`, `levels` and `values` are (cols, rows)."""
    numbers = order.tolist()
    if factor is None:
        for column in numbers:
            levels[column], values[column] = grid.round(column, left[column])
        return
    waiting = left[order]
    for start in range(0, len(numbers), block_columns):
        stop = min(start + block_columns, len(numbers))
        errors = torch.empty(stop - start, left.shape[1])
        for index in range(start, stop):
            column = numbers[index]
            levels[column], values[column] = grid.round(column, waiting[index])
            error = (waiting[index] - values[column]) / factor[index, index]
            waiting[index + 1 : stop].addr_(factor[index, index + 1 : stop], error, alpha=-1)
            errors[index - start] = error
        waiting[stop:].addmm_(factor[start:stop, stop:].T, errors, alpha=-1)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class RoundedMatrix:
    """A matrix of the model, quantized.

    Attributes:
        name: Hugging Face's name.
        weight: its packed bytes.
        plain_error: mean square of the output's error after the range search alone, as a share of the output's.
        error: the same with feedback; never above `plain_error`, since the better of the two is kept.
        note: what was not done, "" if nothing.
    """

    name: str
    weight: Weight
    plain_error: float
    error: float
    note: str


def quantize_layers(
    files: LoadedModel,
    batches: Sequence[Tensor],
    kinds: Mapping[str, StorageType],
    encode: Encode,
    *,
    settings: GptqSettings | None = None,
    sequential: bool = True,
) -> Iterator[RoundedMatrix]:
    """Quantize the layers' matrices with feedback, one layer at a time.

    Args:
        files: the model.
        batches: (B, T) ids each, the calibration text.
        kinds: format of each matrix by name; those in float formats, and those not named, are left out.
        encode: the range search.
        settings: GptqSettings() by default.
        sequential: a layer's inputs come from the quantized layers before it; else from the model as it was.

    Yields:
        Every matrix, layer by layer.

    Raises:
        DataError: a batch has another shape, or ids beyond the vocabulary.
    """
    settings = settings or GptqSettings()
    weights = dict(files.weights)
    streamer = LayerStreamer(dataclasses.replace(files, weights=weights))
    streams = [streamer.embed(ids) for ids in batches]
    for layer in range(files.config.num_hidden_layers):
        states = _run(streamer, files, layer, streams)
        hessians: dict[str, Hessian] = {}
        after = []
        for record in states:
            for field in _INPUTS:
                x = getattr(record, field)
                hessian = hessians.setdefault(field, Hessian(x.shape[-1], max_columns=settings.max_columns))
                hessian.add(x)
            after.append(record.after)
        for field, stems in _INPUTS.items():
            for stem in stems:
                name = f"model.layers.{layer}.{stem}.weight"
                kind = kinds.get(name)
                if kind is None or kind.block_size == 1:
                    continue
                rounded = _quantize(name, weights[name], kind, hessians[field], encode, settings)
                if sequential:
                    weights[name] = rounded.weight
                yield rounded
        streams = [record.after for record in _run(streamer, files, layer, streams)] if sequential else after


def _run(streamer: LayerStreamer, files: LoadedModel, layer: int, streams: Sequence[Tensor]) -> Iterator[BlockStates]:
    block = streamer.load_layer(layer)
    for stream in streams:
        cos, sin = rotary_tables(files.config, stream.shape[1], stream.device)
        with torch.no_grad():
            yield block.states(stream, cos, sin)


def _quantize(
    name: str, weight: Weight, kind: StorageType, hessian: Hessian, encode: Encode, settings: GptqSettings
) -> RoundedMatrix:
    dense = weight.dense()
    rows, cols = weight.shape
    plain = Weight(encode(dense, kind, hessian.strengths()), kind, weight.shape)
    grid = BlockGrid(plain.raw, kind, (rows, cols))
    exact = torch.from_numpy(dense)
    found = feed_back(exact, grid, hessian, settings)
    plain_error = _output_error(exact, torch.from_numpy(plain.dense()), hessian)
    error = _output_error(exact, found.values, hessian)
    if error < plain_error:
        best = Weight(grid.pack(found.levels), kind, weight.shape)
        return RoundedMatrix(name=name, weight=best, plain_error=plain_error, error=error, note=found.note)
    note = "; ".join(filter(None, (found.note, "feedback did not pay, the range search's result was kept")))
    return RoundedMatrix(name=name, weight=plain, plain_error=plain_error, error=plain_error, note=note)


def _output_error(exact: Tensor, rounded: Tensor, hessian: Hessian) -> float:
    """E|(W - Q) x|^2 / E|W x|^2, inside the blocks of the Hessian."""
    lost, whole = _energy(exact - rounded, hessian), _energy(exact, hessian)
    return lost / whole if whole > 0 else 0.0


def _energy(matrix: Tensor, hessian: Hessian) -> float:
    return sum(float(((matrix[:, span] @ mean) * matrix[:, span]).sum()) for span, mean in hessian.means())
