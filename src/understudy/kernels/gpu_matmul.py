"""Matrices on the GPU, and multiplication by them."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from understudy.kernels.formats import StorageType
from understudy.kernels.gpu_adapters import Adapter
from understudy.kernels.gpu_bindings import PASS_BINDINGS
from understudy.kernels.gpu_device import Bound, Dispatch, GpuDevice
from understudy.kernels.gpu_formats import INTEGER_TYPES, gpu_bytes, gpu_layout, num_groups

__all__ = [
    "GpuMatrix",
    "Matmul",
    "MatrixStore",
    "PassLayout",
    "Variant",
    "Way",
    "matmul",
    "padded",
    "store_bytes",
    "token_tile",
]

_ROWS = 4
_ROW_TILE = 2 * _ROWS
_MAX_TOKENS = 4
_OUTPUTS = ("store", "relu2", "add")
_MAX_MATRICES = 8
_SHAPE_BYTES = 64
_HEADER_BYTES = _MAX_MATRICES * _SHAPE_BYTES


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Way:
    """From which activations to which a matrix leads; places are floats in the buffer of activations.

    Attributes:
        x_at: where x begins: (T, padded(cols)) float32, zeros past cols; a multiple of 4.
        y_at: where y begins: (T, y_stride) float32; a multiple of 4.
        y_stride: floats from a row of y to the next; a multiple of 4 but for logits.
        y_offset: where the results begin in a row of y; likewise.
        eps: of the norm before, where there is one.
        output: how results go into y: stored, as squared ReLUs, or added to what is there.
        is_head: whether y is the buffer of logits, and only the rows of x are taken whose logits are wanted.
    """

    x_at: int
    y_at: int
    y_stride: int
    y_offset: int = 0
    eps: float = 0.0
    output: Literal["store", "relu2", "add"] = "store"
    is_head: bool = False

    def __post_init__(self) -> None:
        if (self.x_at | self.y_at) % 4 or (not self.is_head and (self.y_stride | self.y_offset) % 4):
            raise ValueError(f"activations lie in vectors of 4 floats, got {self}")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class GpuMatrix:
    """A packed matrix in a `MatrixStore`.

    Attributes:
        kind: its format.
        rows: outputs.
        cols: inputs.
        number: of the matrix in its store.
    """

    kind: StorageType
    rows: int
    cols: int
    number: int


def store_bytes(matrices: Iterable[tuple[StorageType, int, int, bool]]) -> int:
    """Bytes of a store of such matrices: formats, rows, columns, and whether each has a norm before it."""
    return _HEADER_BYTES + sum(
        sum(gpu_bytes(kind, rows, cols)) + (2 * padded(cols) * 4 if has_norm else 0)
        for kind, rows, cols, has_norm in matrices
    )


class MatrixStore:
    """Matrices in one buffer, so that kernels can see all of them at once; what each is like stands at its beginning.

    Attributes:
        weights: the buffer.
    """

    def __init__(self, device: GpuDevice, num_bytes: int, label: str) -> None:
        """Take memory.

        Args:
            device: where.
            num_bytes: as `store_bytes` says.
            label: what for.

        Raises:
            GpuMemoryError: there is not so much.
        """
        self.weights = device.buffer(num_bytes, label)
        self._device = device
        self._end = _HEADER_BYTES
        self._count = 0

    def add(
        self,
        stored: Sequence[npt.NDArray[np.uint8]],
        kind: StorageType,
        rows: Sequence[int],
        cols: int,
        way: Way,
        *,
        norm: npt.NDArray[np.float32] | None = None,
    ) -> GpuMatrix:
        """Copy matrices of one format and width to the GPU, one below the other, as one.

        Args:
            stored: the bytes of each, as a GGUF file has them.
            kind: their format.
            rows: of each.
            cols: of all.
            way: where x and y are.
            norm: (2, padded(cols)) gain and bias of a LayerNorm1P on the way in; None for none.
        """
        parts = [gpu_layout(raw, kind, count, cols) for raw, count in zip(stored, rows, strict=True)]
        levels, scales = (
            parts[0][which] if len(parts) == 1 else np.concatenate([part[which] for part in parts]) for which in (0, 1)
        )
        places = [self._put(piece) for piece in (levels, scales, norm)]
        numbers = (
            cols, num_groups(cols), sum(rows), _OUTPUTS.index(way.output),
            way.x_at // 4, padded(cols) // 4, way.y_at // 4, way.y_stride, way.y_offset, way.is_head, *places,
        )  # fmt: skip
        shape = np.zeros(_SHAPE_BYTES // 4, np.uint32)
        shape[: len(numbers)] = numbers
        shape[len(numbers) : len(numbers) + 1].view(np.float32)[:] = way.eps
        number, self._count = self._count, self._count + 1
        if number == _MAX_MATRICES:
            raise ValueError(f"a store holds {_MAX_MATRICES} matrices")
        self._device.write(self.weights, shape, offset=number * _SHAPE_BYTES)
        return GpuMatrix(kind=kind, rows=sum(rows), cols=cols, number=number)

    def _put(self, values: npt.NDArray[np.uint8] | npt.NDArray[np.float32] | None) -> int:
        """Where it lies, in vectors of 16 bytes; 0 for nothing."""
        if values is None or not values.size:
            return 0
        at, self._end = self._end, self._end + -(-values.nbytes // 16) * 16
        self._device.write(self.weights, values, offset=at)
        return at // 16


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Matmul:
    """A multiplication ready to run.

    Attributes:
        dispatch: kernel and buffers.
        num_row_tiles: workgroups in x; the remainder by 8 is the matrix's number.
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


def matmul(
    device: GpuDevice, bound: Bound, matrix: GpuMatrix, layout: PassLayout, *, variant: Variant, tokens: int = 1
) -> Matmul:
    """Prepare y = norm(x) * matrix^T.

    Args:
        device: where all of it is.
        bound: the matrix's store and all else that `bind_pass` ties to it.
        matrix: (rows, cols).
        layout: of the pass's words.
        variant: abilities to use.
        tokens: that a workgroup takes.

    Raises:
        GpuError: the adapter's driver refuses the kernel.
    """
    num_tiles = -(-matrix.rows // _ROW_TILE)
    kernel = device.kernel(
        f"{matrix.kind.name} matrix",
        _pieces(matrix.kind, variant),
        {"TOKENS": tokens, "ROWS": _ROWS, "WANTED_AT": layout.places["WANTED_AT"]},
        kinds=PASS_BINDINGS,
    )
    return Matmul(
        dispatch=device.dispatch(kernel, bound),
        num_row_tiles=num_tiles + (matrix.number - num_tiles) % _MAX_MATRICES,
        tokens=tokens,
        num_bytes=sum(gpu_bytes(matrix.kind, matrix.rows, matrix.cols)),
    )


def _pieces(kind: StorageType, variant: Variant) -> list[str]:
    """The files of a multiplication's program."""
    is_integer = variant.has_dp4a and kind in INTEGER_TYPES
    return [
        "bindings",
        f"format_{kind.name.lower()}",
        *(["dequantize"] if kind in INTEGER_TYPES and not is_integer else []),
        "input",
        "matmul_dp4a" if is_integer else "matmul",
        "matmul_main",
        "sum_subgroup" if variant.has_subgroups else "sum_core",
    ]
