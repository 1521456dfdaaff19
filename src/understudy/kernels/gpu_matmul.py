"""Matrices on the GPU, and multiplication by them."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from understudy.kernels.formats import StorageType
from understudy.kernels.gpu_adapters import Adapter
from understudy.kernels.gpu_device import Dispatch, GpuBuffer, GpuDevice
from understudy.kernels.gpu_formats import INTEGER_TYPES, gpu_bytes, gpu_layout, num_groups

__all__ = ["GpuMatrix", "Matmul", "PassLayout", "Variant", "matmul", "padded", "token_tile", "upload_matrix"]

_ROWS = 4
_ROW_TILE = 2 * _ROWS
_MAX_TOKENS = 4
_OUTPUTS = ("store", "relu2", "add")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
    """Which of an adapter's abilities the kernels use.

    Attributes:
        has_subgroups: sums go through registers.
        has_dp4a: quantized weights meet activations rounded to 8 bits, four products an instruction.
    """

    has_subgroups: bool = False
    has_dp4a: bool = False

    def __str__(self) -> str:
        used = [name for name, has in (("subgroups", self.has_subgroups), ("DP4A", self.has_dp4a)) if has]
        return " and ".join(used) or "core"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PassLayout:
    """The words that tell the kernels about a pass: token counts first, then these, at fixed places.

    The first three words are the numbers of tokens, of pieces of attention and of rows of logits.

    Attributes:
        max_tokens: tokens in a pass.
        max_items: pieces of attention in a pass.
        max_rows: rows of logits in a pass.
        max_blocks: cache blocks that the tables of all sequences in a pass name.
    """

    max_tokens: int
    max_items: int
    max_rows: int
    max_blocks: int

    @property
    def places(self) -> dict[str, int]:
        """Where each list begins, in words: constants of the kernels."""
        at = {"POSITIONS_AT": 4}
        at["TABLES_AT"] = at["POSITIONS_AT"] + self.max_tokens
        at["FIRST_ITEMS_AT"] = at["TABLES_AT"] + self.max_tokens
        at["WANTED_AT"] = at["FIRST_ITEMS_AT"] + self.max_tokens
        at["ITEMS_AT"] = at["WANTED_AT"] + self.max_rows
        at["BLOCKS_AT"] = at["ITEMS_AT"] + 2 * self.max_items
        return at

    @property
    def num_words(self) -> int:
        """Words in all."""
        return self.places["BLOCKS_AT"] + self.max_blocks


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class GpuMatrix:
    """A packed matrix on the GPU.

    Attributes:
        kind: its format.
        rows: outputs.
        cols: inputs.
        levels: bits of the values.
        scales: None where the format has none.
    """

    kind: StorageType
    rows: int
    cols: int
    levels: GpuBuffer
    scales: GpuBuffer | None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Matmul:
    """A multiplication ready to run.

    Attributes:
        dispatch: kernel and buffers.
        num_row_tiles: workgroups in x.
        tokens: that a workgroup takes.
        num_bytes: of weights that it reads.
    """

    dispatch: Dispatch
    num_row_tiles: int
    tokens: int
    num_bytes: int

    def run(self, num_tokens: int) -> tuple[Dispatch, tuple[int, int]]:
        """What `GpuDevice.submit` takes."""
        return self.dispatch, (self.num_row_tiles, -(-num_tokens // self.tokens))


def padded(size: int) -> int:
    """Floats from one row of activations to the next: whole groups of 32."""
    return num_groups(size) * 32


def token_tile(adapter: Adapter) -> int:
    """Tokens that a workgroup takes in a batch; what it stages must fit its memory."""
    return _MAX_TOKENS if adapter.workgroup_bytes >= 32768 else _MAX_TOKENS // 2


def upload_matrix(
    device: GpuDevice, stored: Sequence[npt.NDArray[np.uint8]], kind: StorageType, rows: Sequence[int], cols: int,
    label: str,
) -> GpuMatrix:  # fmt: skip
    """Copy matrices of one format and width to the GPU, one below the other.

    Args:
        device: where to.
        stored: the bytes of each, as a GGUF file has them.
        kind: their format.
        rows: of each.
        cols: of all.
        label: what for.

    Raises:
        GpuError: there is no kernel for the format.
        GpuMemoryError: they do not fit.
    """
    sizes = gpu_bytes(kind, sum(rows), cols)
    parts = [gpu_layout(raw, kind, count, cols) for raw, count in zip(stored, rows, strict=True)]
    levels = device.buffer(sizes[0], f"{label}, levels")
    scales = device.buffer(sizes[1], f"{label}, scales") if sizes[1] else None
    for which, target in enumerate((levels, scales)):
        if target is not None:
            device.write(target, parts[0][which] if len(parts) == 1 else np.concatenate([p[which] for p in parts]))
    return GpuMatrix(kind=kind, rows=sum(rows), cols=cols, levels=levels, scales=scales)


def matmul(
    device: GpuDevice,
    matrix: GpuMatrix,
    x: GpuBuffer,
    y: GpuBuffer,
    words: GpuBuffer,
    layout: PassLayout,
    *,
    variant: Variant,
    tokens: int = 1,
    norm: GpuBuffer | None = None,
    eps: float = 0.0,
    output: Literal["store", "relu2", "add"] = "store",
    wants_logits: bool = False,
    y_stride: int | None = None,
    y_offset: int = 0,
) -> Matmul:
    """Prepare y = norm(x) * matrix^T.

    Args:
        device: where all of it is.
        matrix: (rows, cols).
        x: (T, padded(cols)) float32, zeros past cols.
        y: (T, y_stride) float32.
        words: of the pass, laid out as `layout` says.
        layout: see words.
        variant: abilities to use.
        tokens: that a workgroup takes.
        norm: gain and bias, each padded(cols) floats, of a LayerNorm1P on the way in; None for none.
        eps: of the norm.
        output: how results go into y: stored, as squared ReLUs, or added to what is there.
        wants_logits: take only the rows of x whose logits are wanted.
        y_stride: floats from a row of y to the next; default: padded(rows).
        y_offset: where the results begin in a row of y.

    Raises:
        GpuError: the adapter's driver refuses the kernel.
    """
    kernel = device.kernel(
        f"{matrix.kind.name} matrix",
        _pieces(matrix.kind, variant),
        {"TOKENS": tokens, "ROWS": _ROWS, "WANTED_AT": layout.places["WANTED_AT"]},
    )
    numbers = (
        matrix.cols, num_groups(matrix.cols), matrix.rows, padded(matrix.cols) // 4,
        padded(matrix.rows) if y_stride is None else y_stride, y_offset, norm is not None, _OUTPUTS.index(output),
        wants_logits,
    )  # fmt: skip
    shape = np.zeros(12, np.uint32)
    shape[: len(numbers)] = numbers
    shape[len(numbers) : len(numbers) + 1].view(np.float32)[:] = eps
    told = device.upload(shape, "shape of a matrix")
    dispatch = device.dispatch(kernel, (matrix.levels, matrix.scales, x, y, words, norm or words, told))
    return Matmul(
        dispatch=dispatch,
        num_row_tiles=-(-matrix.rows // _ROW_TILE),
        tokens=tokens,
        num_bytes=sum(gpu_bytes(matrix.kind, matrix.rows, matrix.cols)),
    )


def _pieces(kind: StorageType, variant: Variant) -> list[str]:
    """The files of a multiplication's program."""
    is_integer = variant.has_dp4a and kind in INTEGER_TYPES
    return [
        "shape",
        f"format_{kind.name.lower()}",
        *(["dequantize"] if kind in INTEGER_TYPES and not is_integer else []),
        "input",
        "matmul_dp4a" if is_integer else "matmul",
        "matmul_main",
        "sum_subgroup" if variant.has_subgroups else "sum_core",
    ]
