"""The GGUF format, versions 2 and 3: metadata, a list of tensors, their bytes."""

import dataclasses
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.errors import ModelFileError
from understudy.kernels.formats import StorageType, num_stored_bytes
from understudy.model.mapped_file import map_file
from understudy.model.weights import Weight

__all__ = ["GgufFile", "read_gguf"]

_MAX_DIMS = 4
_MAX_NAME_BYTES = 65535
_SIZE = struct.Struct("<Q")  # of a text or an array
_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", _BOOL: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_KINDS = {int(kind): kind for kind in StorageType}
_FOREIGN_KINDS = {3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 10: "Q2_K", 11: "Q3_K", 13: "Q5_K", 20: "IQ4_NL"}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class GgufFile:
    """What a GGUF file says.

    Attributes:
        metadata: its keys and values; arrays are lists.
        tensors: by GGUF's names, memory-mapped; shapes as NumPy writes them (rows first).
        num_bytes: size of the file.
    """

    metadata: dict[str, Any]
    tensors: dict[str, Weight]
    num_bytes: int


class _Damaged(ValueError):
    """The bytes contradict themselves; the message says where."""


def read_gguf(path: Path) -> GgufFile:
    """Map a GGUF file.

    Raises:
        ModelFileError: the file is truncated, inconsistent, of another version, or stores weights in a format that
            Understudy does not read.
    """
    data = map_file(path)
    cursor = _Cursor(data)
    try:
        num_tensors, num_keys = _header(cursor, path)
        metadata = _metadata(cursor, num_keys)
        tensors = _tensors(cursor, num_tensors, metadata, path)
    except _Damaged as error:
        raise ModelFileError(
            f"{path} is a damaged GGUF file: {error}; it was cut off or altered, get it again."
        ) from error
    except UnicodeDecodeError as error:
        raise ModelFileError(f"{path} is a damaged GGUF file: a text is not UTF-8; get it again.") from error
    return GgufFile(metadata=metadata, tensors=tensors, num_bytes=data.size)


class _Cursor:
    """Reads on from a position, never past the end."""

    def __init__(self, data: npt.NDArray[np.uint8]) -> None:
        self.data = data
        self.view = memoryview(data)  # type: ignore[arg-type]
        self.position = 0

    def take(self, size: int) -> int:
        """Step over `size` bytes and return where they start."""
        start = self.position
        if size > len(self.view) - start:
            raise _Damaged(f"{size} bytes are wanted at {start}, but the file has {len(self.view)}")
        self.position = start + size
        return start

    def number(self, code: str) -> Any:
        start = self.take(struct.calcsize(code))
        return struct.unpack_from(code, self.view, start)[0]

    def count(self, what: str, item_bytes: int) -> int:
        """A 64-bit count of items of at least `item_bytes`, which must fit the rest of the file."""
        value: int = self.number("<Q")
        if value > (len(self.view) - self.position) // item_bytes:
            raise _Damaged(f"{value} {what} do not fit the file's {len(self.view)} bytes")
        return value

    def text(self) -> str:
        size = self.count("bytes of text", 1)
        start = self.take(size)
        return str(self.view[start : start + size], "utf-8")

    def texts(self) -> list[str]:
        """An array of texts; a vocabulary has a quarter of a million, so one loop without calls."""
        found: list[str] = []
        view, end, read = self.view, len(self.view), _SIZE.unpack_from
        count = self.count("texts", _SIZE.size)
        position = self.position
        for _ in range(count):
            start = position + _SIZE.size
            size = read(view, position)[0] if start <= end else 0
            position = start + size
            if position > end:
                raise _Damaged(f"a text of {size} bytes does not fit the file's {end} bytes")
            found.append(str(view[start:position], "utf-8"))
        self.position = position
        return found

    def name(self) -> str:
        value = self.text()
        if not 0 < len(value) <= _MAX_NAME_BYTES:
            raise _Damaged(f"a name has {len(value)} characters")
        return value


def _header(cursor: _Cursor, path: Path) -> tuple[int, int]:
    if bytes(cursor.view[:4]) != b"GGUF":
        raise ModelFileError(
            f"{path} does not begin with 'GGUF', so is no GGUF file; check the path or get the file again."
        )
    cursor.take(4)
    version = cursor.number("<I")
    if version in (2 << 24, 3 << 24):
        raise ModelFileError(f"{path} is a big-endian GGUF file; convert it with gguf-convert-endian.")
    if version not in (2, 3):
        raise ModelFileError(
            f"{path} is GGUF version {version}; expected 2 or 3: convert the model again with a current tool."
        )
    return cursor.count("tensors", 24), cursor.count("metadata keys", 13)


def _metadata(cursor: _Cursor, num_keys: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for _ in range(num_keys):
        key = cursor.name()
        if key in metadata:
            raise _Damaged(f"the key {key!r} is there twice")
        kind = cursor.number("<I")
        metadata[key] = _array(cursor, key) if kind == _ARRAY else _reader(kind, key)(cursor)
    return metadata


def _reader(kind: int, key: str) -> Callable[[_Cursor], Any]:
    if kind == _STRING:
        return _Cursor.text
    if kind in _SCALARS:
        code = _SCALARS[kind]
        return lambda cursor: cursor.number(code)
    raise _Damaged(f"the key {key!r} has the unknown type {kind}")


def _array(cursor: _Cursor, key: str) -> list[Any]:
    kind = cursor.number("<I")
    if kind == _STRING:
        return cursor.texts()
    if kind not in _SCALARS:
        raise _Damaged(f"the array {key!r} has items of the unknown type {kind}")
    dtype = np.dtype(_SCALARS[kind] if kind not in (0, 1, _BOOL) else {0: "u1", 1: "i1", _BOOL: "?"}[kind])
    count = cursor.count("numbers", dtype.itemsize)
    start = cursor.take(count * dtype.itemsize)
    values: list[Any] = cursor.data[start : start + count * dtype.itemsize].view(dtype).tolist()
    return values


def _tensors(cursor: _Cursor, count: int, metadata: dict[str, Any], path: Path) -> dict[str, Weight]:
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or alignment < 1 or alignment % 8 or alignment > 1 << 20:
        raise _Damaged(f"general.alignment is {alignment!r}, which must be a multiple of 8")
    infos = [_tensor_info(cursor, path) for _ in range(count)]
    begin = -(-cursor.position // alignment) * alignment
    tensors: dict[str, Weight] = {}
    for name, kind, shape, offset in infos:
        if name in tensors:
            raise _Damaged(f"the tensor {name!r} is there twice")
        if offset % alignment:
            raise _Damaged(f"the tensor {name!r} lies at {offset}, which is not a multiple of {alignment}")
        if shape[-1] % kind.block_size:
            raise _Damaged(f"the tensor {name!r} has rows of {shape[-1]}, which {kind.name} cannot hold")
        start, size = begin + offset, num_stored_bytes(kind, shape)
        if start + size > len(cursor.view):
            raise _Damaged(f"the tensor {name!r} ends at {start + size}, but the file has {len(cursor.view)} bytes")
        tensors[name] = Weight(cursor.data[start : start + size], kind, shape)
    return tensors


def _tensor_info(cursor: _Cursor, path: Path) -> tuple[str, StorageType, tuple[int, ...], int]:
    name = cursor.name()
    num_dims = cursor.number("<I")
    if not 1 <= num_dims <= _MAX_DIMS:
        raise _Damaged(f"the tensor {name!r} has {num_dims} dimensions")
    dims = tuple(cursor.number("<Q") for _ in range(num_dims))
    if min(dims) < 1 or math.prod(dims) >= 1 << 60:
        raise _Damaged(f"the tensor {name!r} has the impossible shape {dims}")
    code, offset = cursor.number("<I"), cursor.number("<Q")
    if code not in _KINDS:
        raise ModelFileError(
            f"{path}: tensor {name!r} is stored as {_FOREIGN_KINDS.get(code, f'type {code}')}; Understudy reads "
            f"{', '.join(k.name for k in StorageType)}: get the model in one of these."
        )
    return name, _KINDS[code], dims[::-1], offset
