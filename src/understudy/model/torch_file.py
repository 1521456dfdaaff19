"""`pytorch_model.bin`: PyTorch's zip format, read without PyTorch and without running anything in it.

The archive holds `NAME/data.pkl`, a pickle that describes the tensors, and `NAME/data/KEY`, their stored bytes. The
pickle is never unpickled: `pickletools` splits it into opcodes, and `_Machine` knows the few that a state dict needs.
It calls nothing that the file names.
"""

import math
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from understudy.errors import ModelFileError
from understudy.kernels.formats import StorageType
from understudy.model.mapped_file import map_file
from understudy.model.weights import Weight

__all__ = ["read_torch_file"]

_U8 = npt.NDArray[np.uint8]

_MAX_PICKLE_BYTES = 64 << 20
_MAX_DIMS = 8
_STORAGES = {
    "torch FloatStorage": StorageType.F32,
    "torch HalfStorage": StorageType.F16,
    "torch BFloat16Storage": StorageType.BF16,
}
_ALLOWED = {*_STORAGES, "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter", "collections OrderedDict"}
_ZIP_ERRORS = (zipfile.BadZipFile, NotImplementedError, struct.error, EOFError, zlib.error, RuntimeError, OSError)
_SHAPE_ERRORS = (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError)


class _Global(NamedTuple):
    """A name in the pickle; never imported."""

    name: str


class _Storage(NamedTuple):
    kind: StorageType
    key: str
    num_values: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class _Refused(ValueError):
    """The pickle names something that a state dict has no use for."""


def read_torch_file(path: Path) -> dict[str, Weight]:
    """Map the tensors of a file that `torch.save(model.state_dict(), path)` wrote.

    Raises:
        ModelFileError: the file is truncated, inconsistent, in torch's old format, or holds more than plain tensors.
    """
    data = map_file(path)
    entries = _entries(data, path)
    pickles = [name for name in entries if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ModelFileError(f"{path} is a zip file, but holds no torch checkpoint (data.pkl); check the path.")
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}byteorder" in entries and entries[f"{root}byteorder"].tobytes() != b"little":
        raise ModelFileError(f"{path} was saved on a big-endian machine; save it again on a little-endian one.")
    state = _read_state(entries[pickles[0]], path)
    return {
        name: _weight(name, value, entries, f"{root}data/", path)
        for name, value in state.items()
        if isinstance(value, _Tensor) and isinstance(name, str)
    }


def _entries(data: _U8, path: Path) -> dict[str, _U8]:
    """Bytes of each file in the archive; torch stores them all uncompressed."""
    if data[:4].tobytes() != b"PK\x03\x04":
        raise ModelFileError(
            f"{path} is not a zip file, so not in torch's current format; load it with torch and torch.save it again, "
            "or use model.safetensors."
        )
    entries: dict[str, _U8] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
        for info in infos:
            if info.filename in entries:
                raise ValueError(f"{info.filename!r} is there twice")
            entries[info.filename] = _stored_bytes(data, info)
    except (*_ZIP_ERRORS, *_SHAPE_ERRORS) as error:
        raise ModelFileError(f"{path} is a damaged zip file ({error}); it was cut off, get it again.") from error
    return entries


def _stored_bytes(data: _U8, info: zipfile.ZipInfo) -> _U8:
    start = info.header_offset
    if not 0 <= start <= data.size - 30 or data[start : start + 4].tobytes() != b"PK\x03\x04":
        raise ValueError(f"{info.filename!r} has no header at {start}")
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        raise ValueError(f"{info.filename!r} is compressed or encrypted; torch stores files as they are")
    name_size, extra_size = struct.unpack("<HH", data[start + 26 : start + 30].tobytes())
    first = start + 30 + name_size + extra_size
    if info.file_size != info.compress_size or first + info.file_size > data.size:
        raise ValueError(f"{info.filename!r} ends beyond the file's {data.size} bytes")
    return data[first : first + info.file_size]


def _read_state(pickled: _U8, path: Path) -> dict[str, Any]:
    if pickled.size > _MAX_PICKLE_BYTES:
        raise ModelFileError(
            f"{path}: data.pkl has {pickled.size} bytes, too many for a list of tensors; get the file again."
        )
    try:
        state = _Machine().run(pickled.tobytes())
    except _Refused as error:
        raise ModelFileError(
            f"{path} {error}, which Understudy never runs; expected a plain state dict of tensors: save it again with "
            "torch.save(model.state_dict(), ...), or use model.safetensors."
        ) from error
    except _SHAPE_ERRORS as error:
        raise ModelFileError(f"{path}: data.pkl is damaged ({error}); get the file again.") from error
    if not isinstance(state, dict):
        raise ModelFileError(
            f"{path} holds a {type(state).__name__}; expected a state dict: torch.save(model.state_dict(), ...)."
        )
    return state


def _weight(name: str, tensor: _Tensor, entries: dict[str, _U8], folder: str, path: Path) -> Weight:
    storage, shape = tensor.storage, tensor.shape
    size = storage.kind.block_bytes
    raw = entries.get(f"{folder}{storage.key}")
    stop = (tensor.offset + math.prod(shape)) * size
    if raw is None or raw.size < storage.num_values * size or stop > raw.size:
        raise ModelFileError(
            f"{path}: tensor {name!r} needs {stop} bytes of storage {storage.key!r}, which has "
            f"{0 if raw is None else raw.size}; the file was cut off, get it again."
        )
    step = 1
    for dim, stride in zip(reversed(shape), reversed(tensor.stride), strict=True):
        if dim != 1 and stride != step:
            raise ModelFileError(f"{path}: tensor {name!r} is a strided view; save it again after .contiguous().")
        step *= dim
    return Weight(raw[tensor.offset * size : stop], storage.kind, shape)


class _Machine:
    """Pickle's stack machine, reduced to what `torch.save` writes for a state dict."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def run(self, pickled: bytes) -> Any:
        for opcode, argument, _ in pickletools.genops(pickled):
            if opcode.name == "STOP":
                return self._stack.pop()
            if opcode.name in _CONSTANTS:
                self._stack.append(_CONSTANTS[opcode.name]())
            elif opcode.name in _LITERALS:
                self._stack.append(argument)
            elif opcode.name in _ACTIONS:
                _ACTIONS[opcode.name](self, argument)
            elif opcode.name not in ("PROTO", "FRAME"):
                raise _Refused(f"uses the pickle instruction {opcode.name}")
        raise ValueError("it has no end")

    def mark(self, _: Any) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def pop_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._marks.pop()
        return items

    def put(self, index: int | None) -> None:
        self._memo[len(self._memo) if index is None else index] = self._stack[-1]

    def get(self, index: int) -> None:
        self._stack.append(self._memo[index])

    def global_name(self, name: str) -> None:
        if name not in _ALLOWED:
            raise _Refused(f"asks for {name.replace(' ', '.')!r}")
        self._stack.append(_Global(name))

    def stack_global(self, _: Any) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self.global_name(f"{module} {name}")

    def tuple_of(self, count: int) -> None:
        items = [self._stack.pop() for _ in range(count)]
        self._stack.append(tuple(reversed(items)))

    def tuple_mark(self, _: Any) -> None:
        items = self.pop_mark()
        self._stack.append(tuple(items))

    def append(self, _: Any) -> None:
        item = self._stack.pop()
        _of_type(self._stack[-1], list).append(item)

    def appends(self, _: Any) -> None:
        items = self.pop_mark()
        _of_type(self._stack[-1], list).extend(items)

    def set_item(self, _: Any) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set(key, value)

    def set_items(self, _: Any) -> None:
        items = self.pop_mark()
        for key, value in zip(items[::2], items[1::2], strict=True):
            self._set(key, value)

    def _set(self, key: Any, value: Any) -> None:
        target = _of_type(self._stack[-1], dict)
        if _of_type(key, str, int) in target:
            raise ValueError(f"the key {key!r} is there twice")
        target[key] = value

    def build(self, _: Any) -> None:
        """Attributes set on a dict, such as a state dict's `_metadata`: dropped."""
        self._stack.pop()
        _of_type(self._stack[-1], dict)

    def persistent_id(self, _: Any) -> None:
        tag, storage, key, _location, count = self._stack.pop()
        if tag != "storage" or not isinstance(storage, _Global) or storage.name not in _STORAGES:
            name = storage.name.replace(" ", ".") if isinstance(storage, _Global) else type(storage).__name__
            raise _Refused(f"stores numbers as {name!r} instead of float32, float16 or bfloat16")
        self._stack.append(_Storage(_STORAGES[storage.name], _of_type(key, str), _size(count)))

    def reduce(self, _: Any) -> None:
        arguments, function = _of_type(self._stack.pop(), tuple), _of_type(self._stack.pop(), _Global)
        if function.name == "collections OrderedDict" and not arguments:
            self._stack.append({})
        elif function.name == "torch._utils _rebuild_parameter":
            self._stack.append(_of_type(arguments[0], _Tensor))
        elif function.name == "torch._utils _rebuild_tensor_v2":
            storage, offset, shape, stride = arguments[:4]
            sizes = tuple(_size(n) for n in _of_type(shape, tuple))
            strides = tuple(_size(n) for n in _of_type(stride, tuple))
            if len(sizes) != len(strides) or len(sizes) > _MAX_DIMS:
                raise ValueError(f"a tensor has the shape {sizes} and strides {strides}")
            self._stack.append(_Tensor(_of_type(storage, _Storage), _size(offset), sizes, strides))
        else:
            raise _Refused(f"calls {function.name.replace(' ', '.')!r}")


def _of_type(value: Any, *kinds: type) -> Any:
    if type(value) not in kinds:
        raise TypeError(f"found a {type(value).__name__} where a {kinds[0].__name__} must be")
    return value


def _size(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise ValueError("a size is no whole number, or out of range")
    return value


_CONSTANTS: dict[str, Callable[[], Any]] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
}
_LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}
_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine.mark,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.put,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "GLOBAL": _Machine.global_name,
    "STACK_GLOBAL": _Machine.stack_global,
    "TUPLE": _Machine.tuple_mark,
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.persistent_id,
    "REDUCE": _Machine.reduce,
}
