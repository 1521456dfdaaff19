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
from understudy.kernels.formats import StorageType, dequantize
from understudy.model.checkpoint import LoadedModel
from understudy.model.weights import Weight
from understudy.quantization.grid import BlockGrid
from understudy.training.model import BlockStates, rotary_tables
from understudy.training.streaming import LayerStreamer

__all__ = [
    "Encode",
    "Factor",
    "GptqSettings",
    "Hessian",
    "RoundedMatrix",
    "Rounder",
    "factorize",
    "feed_back",
    "quantize_layers",
]

_F32 = npt.NDArray[np.float32]
_U8 = npt.NDArray[np.uint8]
Encode = Callable[[_F32, StorageType, _F32], _U8]
"""(rows, cols) values, a format, (cols,) E[x^2] of the inputs -> packed bytes."""

_SLAB_VALUES = 1 << 24
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
class Factor:
    """One block of a Hessian, made ready.

    Attributes:
        order: columns of the matrix, in the order in which they are rounded.
        upper: Cholesky factor of the damped block's inverse, in that order; None where there is none, then columns are
            rounded plainly.
        damping: what was added to the diagonal, as a share of its mean.
    """

    order: Tensor
    upper: Tensor | None
    damping: float


def factorize(hessian: Hessian, settings: GptqSettings | None = None) -> tuple[Factor, ...]:
    """Invert a Hessian; the damping is raised where that fails, and a block that never succeeds gets no factor."""
    settings = settings or GptqSettings()
    factors = []
    for span, mean in hessian.means():
        order = torch.argsort(mean.diagonal(), descending=True) if settings.by_strength else torch.arange(len(mean))
        upper, damping = _inverse_factor(mean[order][:, order], settings)
        factors.append(Factor(order=order + span.start, upper=upper, damping=damping))
    return tuple(factors)


def _inverse_factor(mean: Tensor, settings: GptqSettings) -> tuple[Tensor | None, float]:
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


def feed_back(
    weight: Tensor, grid: Rounder, factors: Sequence[Factor], *, block_columns: int = 128
) -> tuple[Tensor, Tensor]:
    """Round a matrix to a grid, column by column, each column's error taken up by the columns not yet rounded.

    Args:
        weight: (rows, cols) float32; rows do not know of each other.
        grid: where a column's values may lie.
        factors: of the Hessian of the inputs.
        block_columns: columns between two updates of all columns behind.

    Returns:
        Levels (rows, cols) int16 for the grid's `pack`, and the values (rows, cols) float32 that they stand for.
    """
    columns = weight.shape[1]
    levels = torch.empty(columns, len(weight), dtype=torch.int16)
    values = torch.empty(columns, len(weight))
    exact = weight.T.contiguous()  # a row for each column, so that one is a stretch of memory
    for factor in factors:
        _round_span(exact, factor, grid, block_columns, levels, values)
    return levels.T.contiguous(), values.T.contiguous()


def _round_span(
    exact: Tensor, factor: Factor, grid: Rounder, block_columns: int, levels: Tensor, values: Tensor
) -> None:
    """Round the columns of one block; `exact`, `levels` and `values` are (cols, rows)."""
    numbers, upper = factor.order.tolist(), factor.upper
    waiting = exact[factor.order]
    if upper is None:
        for column, values_of in zip(numbers, waiting, strict=True):
            levels[column], values[column] = grid.round(column, values_of)
        return
    for start in range(0, len(numbers), block_columns):
        stop = min(start + block_columns, len(numbers))
        errors = torch.empty(stop - start, exact.shape[1])
        for index in range(start, stop):
            column = numbers[index]
            levels[column], values[column] = grid.round(column, waiting[index])
            error = (waiting[index] - values[column]) / upper[index, index]
            waiting[index + 1 : stop].addr_(upper[index, index + 1 : stop], error, alpha=-1)
            errors[index - start] = error
        waiting[stop:].addmm_(upper[start:stop, stop:].T, errors, alpha=-1)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class RoundedMatrix:
    """A matrix of the model, quantized.

    Attributes:
        name: Hugging Face's name.
        weight: its packed bytes.
        plain_error: mean square of the output's error after the range search alone, as a share of the output's.
        error: the same with feedback; never above `plain_error`, since the better of the two is kept.
        damping: the largest that was needed.
        note: what was not done, "" if nothing.
    """

    name: str
    weight: Weight
    plain_error: float
    error: float
    damping: float
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
    """Quantize the layers' matrices and the head with feedback, one layer at a time.

    Args:
        files: the model.
        batches: (B, T) ids each, the calibration text.
        kinds: format of each matrix by name; those in float formats, and those not named, are left out.
        encode: the range search.
        settings: GptqSettings() by default.
        sequential: a layer's inputs come from the quantized layers before it; else from the model as it was.

    Yields:
        Every matrix, layer by layer, the head last.

    Raises:
        DataError: a batch has another shape, or ids beyond the vocabulary.
    """
    settings = settings or GptqSettings()
    weights = dict(files.weights)
    streamer = LayerStreamer(dataclasses.replace(files, weights=weights))
    streams = [streamer.embed(ids) for ids in batches]
    for layer in range(files.config.num_hidden_layers):
        hessians: dict[str, Hessian] = {}
        after = []
        for record in _run(streamer, files, layer, streams):
            for field in _INPUTS:
                x = getattr(record, field)
                hessians.setdefault(field, Hessian(x.shape[-1], max_columns=settings.max_columns)).add(x)
            after.append(record.after)
        for field, stems in _INPUTS.items():
            names = [f"model.layers.{layer}.{stem}.weight" for stem in stems]
            for rounded in _quantize_all(names, weights, kinds, hessians.pop(field), encode, settings):
                if sequential:
                    weights[rounded.name] = rounded.weight
                yield rounded
        streams = [record.after for record in _run(streamer, files, layer, streams)] if sequential else after
    norm = streamer.load_norm()
    hessian = Hessian(files.config.hidden_size, max_columns=settings.max_columns)
    with torch.no_grad():
        for stream in streams:
            hessian.add(norm(stream))
    yield from _quantize_all(["lm_head.weight"], weights, kinds, hessian, encode, settings)


def _run(streamer: LayerStreamer, files: LoadedModel, layer: int, streams: Sequence[Tensor]) -> Iterator[BlockStates]:
    block = streamer.load_layer(layer)
    for stream in streams:
        cos, sin = rotary_tables(files.config, stream.shape[1], stream.device)
        with torch.no_grad():
            yield block.states(stream, cos, sin)


def _quantize_all(
    names: Sequence[str],
    weights: Mapping[str, Weight],
    kinds: Mapping[str, StorageType],
    hessian: Hessian,
    encode: Encode,
    settings: GptqSettings,
) -> Iterator[RoundedMatrix]:
    """Quantize the matrices that share an input, those of them that are to be."""
    wanted = [name for name in names if name in weights and name in kinds and kinds[name].block_size > 1]
    factors = factorize(hessian, settings) if wanted else ()
    for name in wanted:
        yield _quantize(name, weights[name], kinds[name], hessian, factors, encode, settings)


def _quantize(
    name: str,
    weight: Weight,
    kind: StorageType,
    hessian: Hessian,
    factors: Sequence[Factor],
    encode: Encode,
    settings: GptqSettings,
) -> RoundedMatrix:
    """Range search and feedback, a slab of rows at a time; the better of the two is kept for each slab."""
    rows, cols = weight.shape
    strengths = hessian.strengths()
    packed: list[_U8] = []
    whole = plain_loss = loss = 0.0
    step = max(1, _SLAB_VALUES // cols)
    for start in range(0, rows, step):
        dense = weight.rows(np.arange(start, min(start + step, rows)))
        exact = torch.from_numpy(dense)
        plain = encode(dense, kind, strengths)
        grid = BlockGrid(plain, kind, dense.shape)
        levels, values = feed_back(exact, grid, factors, block_columns=settings.block_columns)
        plain_energy = _energy(exact - torch.from_numpy(dequantize(plain, kind, dense.shape)), hessian)
        energy = _energy(exact - values, hessian)
        packed.append(grid.pack(levels) if energy < plain_energy else plain)
        whole += _energy(exact, hessian)
        plain_loss += plain_energy
        loss += min(energy, plain_energy)
    failed = [factor for factor in factors if factor.upper is None]
    return RoundedMatrix(
        name=name,
        weight=Weight(np.concatenate(packed), kind, weight.shape),
        plain_error=plain_loss / whole if whole > 0 else 0.0,
        error=loss / whole if whole > 0 else 0.0,
        damping=max((factor.damping for factor in factors), default=0.0),
        note=f"{sum(len(f.order) for f in failed)} columns rounded plainly: no Hessian to go by" if failed else "",
    )


def _energy(matrix: Tensor, hessian: Hessian) -> float:
    """E|M x|^2, inside the blocks of the Hessian."""
    return sum(float(((matrix[:, span] @ mean) * matrix[:, span]).sum()) for span, mean in hessian.means())
