"""The safetensors format: 8 bytes of header length, a JSON header, the tensors' bytes."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.errors import ModelFileError
from understudy.kernels.formats import StorageType
from understudy.model.mapped_file import map_file, parse_json_object
from understudy.model.weights import Weight

__all__ = ["read_safetensors"]

_MAX_HEADER_BYTES = 100_000_000
_MAX_DIMS = 8
_KINDS = {"F32": StorageType.F32, "F16": StorageType.F16, "BF16": StorageType.BF16}


def read_safetensors(path: Path) -> dict[str, Weight]:
    """Map the tensors of one file.

    Raises:
        ModelFileError: the file is truncated, inconsistent, or stores numbers in another type than F32, F16 or BF16.
    """
    data = map_file(path)
    header, body = _split(data, path)
    header.pop("__metadata__", None)
    return {name: _tensor(name, entry, body, path) for name, entry in header.items()}


def _split(data: npt.NDArray[np.uint8], path: Path) -> tuple[dict[str, Any], npt.NDArray[np.uint8]]:
    if data.size < 8:
        raise ModelFileError(f"{path} has {data.size} bytes, too few for a safetensors file; get the file again.")
    length = int.from_bytes(data[:8].tobytes(), "little")
    if length > min(_MAX_HEADER_BYTES, data.size - 8):
        raise ModelFileError(
            f"{path}: the safetensors header claims {length} bytes in a file of {data.size}; the file is no "
            "safetensors file or was cut off, get it again."
        )
    return parse_json_object(data[8 : 8 + length].tobytes(), f"{path}: the safetensors header"), data[8 + length :]


def _tensor(name: str, entry: Any, body: npt.NDArray[np.uint8], path: Path) -> Weight:
    if not isinstance(entry, dict):
        raise ModelFileError(f"{path}: tensor {name!r} has no description; get the file again.")
    kind = _KINDS.get(str(entry.get("dtype")))
    if kind is None:
        raise ModelFileError(
            f"{path}: tensor {name!r} is stored as {entry.get('dtype')!r}; expected F32, F16 or BF16: convert it."
        )
    shape, offsets = _sizes(entry.get("shape")), _sizes(entry.get("data_offsets"))
    if shape is None or len(shape) > _MAX_DIMS or offsets is None or len(offsets) != 2:
        raise ModelFileError(f"{path}: tensor {name!r} has a malformed shape or data_offsets; get the file again.")
    start, stop = offsets
    wanted = math.prod(shape) * kind.block_bytes
    if stop > body.size or stop - start != wanted:
        raise ModelFileError(
            f"{path}: tensor {name!r} needs {wanted} bytes, but its offsets are {start} to {stop} in {body.size} bytes "
            "of data; the file was cut off or is damaged, get it again."
        )
    return Weight(body[start:stop], kind, shape)


def _sizes(value: Any) -> tuple[int, ...] | None:
    if isinstance(value, list) and all(type(v) is int and 0 <= v < 1 << 62 for v in value):
        return tuple(value)
    return None
