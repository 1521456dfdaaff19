"""Writing GGUF: one file with weights, tokenizer, template and configuration."""

import dataclasses
import os
import struct
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from understudy.errors import ModelFileError
from understudy.kernels.formats import StorageType, num_stored_bytes, quantize
from understudy.model.config import NemotronConfig
from understudy.model.gguf_keys import config_to_gguf
from understudy.model.gguf_tokenizer_keys import tokenizer_to_gguf
from understudy.model.tensor_names import expected_shapes, gguf_names
from understudy.model.weights import Weight

__all__ = ["write_gguf", "write_gguf_tensors", "write_packed_gguf"]

_ALIGNMENT = 32
_FILE_TYPES = {"f16": (StorageType.F16, 1), "q8_0": (StorageType.Q8_0, 7)}


def write_gguf(
    path: Path,
    config: NemotronConfig,
    tensors: Mapping[str, Weight | npt.NDArray[np.floating]],
    tokenizer_definition: Mapping[str, Any],
    chat_template: str | None,
    *,
    file_type: Literal["f16", "q8_0"],
    metadata: Mapping[str, str | int | float | bool | list[str]] | None = None,
) -> None:
    """Write a model to a GGUF file that Understudy, llama.cpp and its kin read.

    The file appears under its name only when it is complete. Matrices are stored as `file_type` (as F16 where their
    rows do not fill Q8_0's blocks of 32), norms as F32 with the 1 of LayerNorm1P added.

    Args:
        path: where to; a file there is replaced.
        config: the model's shape.
        tensors: by Hugging Face's names, norm weights without the added 1.
        tokenizer_definition: the content of a `tokenizer.json`: byte-level BPE.
        chat_template: Jinja template for other programs.
        file_type: "f16" or "q8_0".
        metadata: further keys, such as "general.name" or "general.license".

    Raises:
        ModelFileError: a tensor is missing, misshapen or not finite, the tokenizer is of another kind, or the disk
            refuses.
    """
    matrix_kind, type_number = _FILE_TYPES[file_type]
    if config.tie_word_embeddings and "model.embed_tokens.weight" in tensors:
        tensors = {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]}
    shapes = expected_shapes(dataclasses.replace(config, tie_word_embeddings=False))
    kinds = _storage_kinds(shapes, tensors, matrix_kind)
    write_packed_gguf(
        path,
        config,
        kinds,
        lambda name: _packed(name, tensors[name], kinds[name]),
        tokenizer_definition,
        chat_template,
        file_type_number=type_number,
        metadata=metadata,
    )


def write_packed_gguf(
    path: Path,
    config: NemotronConfig,
    kinds: Mapping[str, StorageType],
    packed: Callable[[str], npt.NDArray[np.uint8]],
    tokenizer_definition: Mapping[str, Any],
    chat_template: str | None,
    *,
    file_type_number: int,
    metadata: Mapping[str, str | int | float | bool | list[str]] | None = None,
) -> None:
    """Write a GGUF file whose tensors are packed one after the other, as they are asked for.

    Args:
        path: where to; a file there is replaced.
        config: the model's shape.
        kinds: format of each tensor of `expected_shapes`, the head always among them.
        packed: a tensor's bytes, by Hugging Face's name; norm weights with the 1 added.
        tokenizer_definition: the content of a `tokenizer.json`: byte-level BPE.
        chat_template: Jinja template for other programs.
        file_type_number: GGUF's `general.file_type`.
        metadata: further keys.

    Raises:
        ModelFileError: the tokenizer is of another kind, or the disk refuses.
    """
    keys: dict[str, Any] = {
        "general.architecture": "nemotron",
        "general.alignment": _ALIGNMENT,
        "general.quantization_version": 2,
        "general.file_type": file_type_number,
        **config_to_gguf(config),
        **tokenizer_to_gguf(tokenizer_definition, config),
    }
    if chat_template is not None:
        keys["tokenizer.chat_template"] = chat_template
    keys.update(metadata or {})
    shapes = expected_shapes(dataclasses.replace(config, tie_word_embeddings=False))
    names = gguf_names(shapes)
    described = {names[name]: (shape, kinds[name]) for name, shape in shapes.items()}
    by_gguf_name = {short: long for long, short in names.items()}
    write_gguf_tensors(path, keys, described, lambda name: packed(by_gguf_name[name]))


def write_gguf_tensors(
    path: Path,
    keys: Mapping[str, Any],
    tensors: Mapping[str, tuple[tuple[int, ...], StorageType]],
    packed: Callable[[str], npt.NDArray[np.uint8]],
) -> None:
    """Write any GGUF file; it appears under its name only when it is complete.

    Args:
        path: where to; a file there is replaced.
        keys: all metadata, "general.architecture" first.
        tensors: shape (rows first) and format by GGUF's names.
        packed: a tensor's bytes, by GGUF's name.

    Raises:
        ModelFileError: the disk refuses.
    """
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise ModelFileError(f"{path} cannot be written: {error}; choose a folder that exists.") from error
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            _write(file, keys, tensors, packed)
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink()
        if isinstance(error, OSError):
            raise ModelFileError(f"{path} cannot be written: {error}; make room or choose another folder.") from error
        raise


def _storage_kinds(
    shapes: Mapping[str, tuple[int, ...]],
    tensors: Mapping[str, Weight | npt.NDArray[np.floating]],
    matrix_kind: StorageType,
) -> dict[str, StorageType]:
    kinds: dict[str, StorageType] = {}
    for name, shape in shapes.items():
        if name not in tensors:
            raise ModelFileError(f"The tensor {name!r} is missing; give all tensors of the model.")
        if tuple(tensors[name].shape) != shape:
            raise ModelFileError(f"The tensor {name!r} has shape {tuple(tensors[name].shape)}; expected {shape}.")
        fits = shape[-1] % matrix_kind.block_size == 0
        kinds[name] = StorageType.F32 if len(shape) == 1 else matrix_kind if fits else StorageType.F16
    return kinds


def _write(
    file: BinaryIO,
    keys: Mapping[str, Any],
    tensors: Mapping[str, tuple[tuple[int, ...], StorageType]],
    packed: Callable[[str], npt.NDArray[np.uint8]],
) -> None:
    file.write(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)))
    for key, value in keys.items():
        file.write(_text(key) + b"".join(_value(value)))
    offset = 0
    for name, (shape, kind) in tensors.items():
        dims = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        file.write(_text(name) + dims + struct.pack("<IQ", kind, offset))
        offset += _aligned(num_stored_bytes(kind, shape))
    file.write(bytes(_aligned(file.tell()) - file.tell()))
    for name in tensors:
        data = packed(name)
        file.write(data.data)
        file.write(bytes(_aligned(data.size) - data.size))


def _packed(name: str, tensor: Weight | npt.NDArray[np.floating], kind: StorageType) -> npt.NDArray[np.uint8]:
    if isinstance(tensor, Weight) and tensor.kind is kind and kind is not StorageType.F32:
        return np.ascontiguousarray(tensor.raw)
    values = tensor.dense() if isinstance(tensor, Weight) else np.asarray(tensor, np.float32)
    if name.endswith("norm.weight"):
        values = values + np.float32(1)
    try:
        return quantize(values, kind)
    except ValueError as error:
        raise ModelFileError(f"The tensor {name!r} cannot be stored as {kind.name}: {error}.") from error


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _text(value: str) -> bytes:
    data = value.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def _value(value: Any) -> Iterator[bytes]:
    """Type number and bytes of a metadata value: whole numbers as u32 where they fit, else i64; fractions as f32."""
    if isinstance(value, bool):
        yield struct.pack("<I?", 7, value)
    elif isinstance(value, int):
        yield struct.pack("<II", 4, value) if 0 <= value < 1 << 32 else struct.pack("<Iq", 11, value)
    elif isinstance(value, float):
        yield struct.pack("<If", 6, value)
    elif isinstance(value, str):
        yield struct.pack("<I", 8) + _text(value)
    elif all(isinstance(item, str) for item in value):
        yield struct.pack("<IIQ", 9, 8, len(value))
        yield from map(_text, value)
    elif any(isinstance(item, float) for item in value):
        yield struct.pack("<IIQ", 9, 6, len(value)) + struct.pack(f"<{len(value)}f", *value)
    else:
        yield struct.pack("<IIQ", 9, 5, len(value)) + struct.pack(f"<{len(value)}i", *value)
