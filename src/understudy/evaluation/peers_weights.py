"""A model's weights as other engines want them: 4 bits in groups, and the input table in 8."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from understudy.model.weights import Weight

__all__ = ["eight_bit_table", "four_bit_groups", "four_bit_matrix", "write_beside"]

_GROUP_SIZES = (128, 64, 32, 16)
_SLAB_ROWS = 4096


def four_bit_groups(values: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float16]]:
    """Quantize a matrix to symmetric 4 bits in the largest group that divides its rows.

    Args:
        values: (rows, cols).

    Returns:
        (rows, groups, size) levels from -7 to 7, and (rows, groups, 1) scales.
    """
    rows, cols = values.shape
    size = next((size for size in _GROUP_SIZES if cols % size == 0), cols)
    grouped = values.reshape(rows, cols // size, size)
    scales = (np.abs(grouped).max(axis=2, keepdims=True) / 7).astype(np.float16)
    safe = np.where(scales == 0, np.float32(1), scales.astype(np.float32))
    return np.clip(np.rint(grouped / safe), -7, 7).astype(np.int8), scales


def four_bit_matrix(weight: Weight, *, offset: int = 0) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float16]]:
    """Requantize a stored matrix as `four_bit_groups` does, some thousand rows at a time.

    Args:
        weight: (rows, cols).
        offset: added to the levels before they are cut to 4 bits.

    Returns:
        (rows, groups, size / 2) bytes of two levels, the first in the low half, and (rows, groups, 1) scales.
    """
    packed, scales = [], []
    for start in range(0, weight.shape[0], _SLAB_ROWS):
        rows = weight.rows(np.arange(start, min(start + _SLAB_ROWS, weight.shape[0])))
        levels, slab_scales = four_bit_groups(rows)
        nibbles = (levels + np.int8(offset)).view(np.uint8) & 15
        packed.append(nibbles[..., 0::2] | nibbles[..., 1::2] << 4)
        scales.append(slab_scales)
    return np.concatenate(packed), np.concatenate(scales)


def eight_bit_table(weight: Weight) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Requantize the input table: (V, D) levels and (V, 1) scales."""
    levels = np.empty(weight.shape, np.int8)
    scales = np.empty((weight.shape[0], 1), np.float32)
    for start in range(0, weight.shape[0], _SLAB_ROWS):
        slab = slice(start, min(start + _SLAB_ROWS, weight.shape[0]))
        rows = weight.rows(np.arange(slab.start, slab.stop))
        scales[slab] = np.maximum(np.abs(rows).max(axis=1, keepdims=True), np.finfo(np.float32).tiny * 127) / 127
        levels[slab] = np.rint(rows / scales[slab])
    return levels, scales


def write_beside(model: Path, suffix: str, write: Callable[[Path], None]) -> Path:
    """The folder beside a model that holds it in another form; it is written if there is none, or an older one.

    Args:
        model: the file.
        suffix: of the folder's name.
        write: fills an empty folder.
    """
    folder = model.with_name(f"{model.name}.{suffix}")
    if folder.exists() and folder.stat().st_mtime >= model.stat().st_mtime:
        return folder
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    write(part)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    return folder
