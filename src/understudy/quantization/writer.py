"""A quantized GGUF file from a 16- or 32-bit model: one slab of rows in memory, resumed after a kill."""

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from understudy import __version__
from understudy.errors import ModelFileError
from understudy.kernels.formats import StorageType, num_stored_bytes
from understudy.model.checkpoint import LoadedModel
from understudy.model.gguf_writer import write_packed_gguf
from understudy.model.mapped_file import drop_pages
from understudy.model.tensor_names import expected_shapes
from understudy.model.weights import Weight
from understudy.prompt.chat_template import NEMOTRON_CHAT_TEMPLATE
from understudy.quantization.blocks import ENCODED, encode
from understudy.quantization.calibration import Importance, model_hash
from understudy.quantization.gptq import quantize_layers
from understudy.quantization.plan import HEAD, TABLE, Plan, stored_bytes
from understudy.quantization.spool import Spool

__all__ = ["Progress", "QuantizedFile", "quantize_model"]

_F32 = npt.NDArray[np.float32]
_U8 = npt.NDArray[np.uint8]

ENCODER = 1
"""Raised when the search gives other bytes, so that a resumed file is of one piece."""

_SLAB_VALUES = 1 << 23
_SOURCE_KINDS = (StorageType.F32, StorageType.F16, StorageType.BF16)
_KEPT_KEYS = ("general.name", "general.license", "general.languages", "understudy.recipe")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Progress:
    """How far it is.

    Attributes:
        tensor: the tensor that was just finished.
        tensors: how many are finished.
        num_tensors: in all.
        values: weights done.
        num_values: in all.
    """

    tensor: str
    tensors: int
    num_tensors: int
    values: int
    num_values: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizedFile:
    """What was written.

    Attributes:
        path: the GGUF file.
        num_bytes: its size.
        bits_per_weight: of all tensors together.
        resumed: tensors that an earlier run had finished.
        seconds: time that it took.
    """

    path: Path
    num_bytes: int
    bits_per_weight: float
    resumed: int
    seconds: float


def quantize_model(
    files: LoadedModel,
    output: Path,
    plan: Plan,
    importance: Importance | None = None,
    *,
    feedback: Sequence[Tensor] | None = None,
    options: Mapping[str, Any] | None = None,
    source_hash: str | None = None,
    num_threads: int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> QuantizedFile:
    """Quantize a model to a GGUF file that appears under its name only when it is complete.

    Run again after a stop, it goes on with the first tensor that was not finished; the file is the same bit for bit.

    Args:
        files: the model, F32, F16 or BF16.
        output: where to; a file there is replaced.
        plan: formats of all tensors.
        importance: E[x^2] of the inputs; None weighs all inputs alike.
        feedback: calibration batches: what a column of a layer's matrix loses by rounding, the columns behind it make
            good (`gptq`); None for the range search alone.
        options: the resolved configuration, kept in the file's metadata.
        source_hash: `model_hash(files)` where it is known already.
        num_threads: None for every core that the process may use.
        progress: called after each tensor.

    Raises:
        ModelFileError: the source is quantized already, a value is not finite, or the disk refuses.
    """
    start = time.monotonic()
    _check_source(files)
    note = _note(plan, importance, options or {}, source_hash or model_hash(files), is_fed_back=feedback is not None)
    values = {name: math.prod(shape) for name, shape in _shapes(files).items()}
    with Spool(output, hashlib.sha256(note.encode()).hexdigest()) as spool:
        resumed = sum(name in spool for name in values)
        for name in _fill(spool, files, plan, importance, feedback, num_threads):
            if progress:
                progress(_state(name, spool, values))
        write_packed_gguf(
            output,
            files.config,
            plan.kinds,
            spool.get,
            files.tokenizer.definition,
            files.chat_template or NEMOTRON_CHAT_TEMPLATE,
            file_type_number=plan.file_type,
            metadata={**_kept(files), "understudy.quantization": note},
        )
        spool.remove()
    return QuantizedFile(
        path=output,
        num_bytes=output.stat().st_size,
        bits_per_weight=8 * sum(stored_bytes(plan, files.config).values()) / sum(values.values()),
        resumed=resumed,
        seconds=time.monotonic() - start,
    )


def _shapes(files: LoadedModel) -> dict[str, tuple[int, ...]]:
    return expected_shapes(dataclasses.replace(files.config, tie_word_embeddings=False))


def _state(tensor: str, spool: Spool, values: Mapping[str, int]) -> Progress:
    ready = [name for name in values if name in spool]
    return Progress(
        tensor=tensor,
        tensors=len(ready),
        num_tensors=len(values),
        values=sum(values[name] for name in ready),
        num_values=sum(values.values()),
    )


def _fill(
    spool: Spool,
    files: LoadedModel,
    plan: Plan,
    importance: Importance | None,
    feedback: Sequence[Tensor] | None,
    num_threads: int | None,
) -> Iterator[str]:
    """Put every tensor into the spool that is not there; gives each one's name when it is finished."""
    if feedback is not None:
        yield from _feed_back(files, plan, feedback, spool, num_threads)
    for name in _shapes(files):
        if name not in spool:
            channels = None if importance is None else importance.channels.get(_input_of(name, files))
            spool.put(name, _packed(files, name, plan.kinds[name], channels, num_threads))
            yield name


def _feed_back(
    files: LoadedModel, plan: Plan, batches: Sequence[Tensor], spool: Spool, num_threads: int | None
) -> Iterator[str]:
    """Quantize the layers' matrices and the head with error feedback; a layer not finished as a whole is done again.

    Its inputs come from the finished layers as they are stored, so a resumed run sees what an undisturbed one does.
    """
    weights = dict(files.weights)
    kinds = {name: kind for name, kind in plan.kinds.items() if kind in ENCODED and _is_fed_back(name, files)}
    units: dict[str, list[str]] = {}
    for name in kinds:
        units.setdefault(_unit(name), []).append(name)
    for names in units.values():
        if all(name in spool for name in names):
            for name in names:
                weights[name] = Weight(spool.get(name), kinds.pop(name), weights[name].shape)

    def search(values: _F32, kind: StorageType, channels: _F32) -> _U8:
        return _encoded(files, "of a layer", values, kind, channels, num_threads)

    waiting: dict[str, _U8] = {}
    for matrix in quantize_layers(dataclasses.replace(files, weights=weights), batches, kinds, search):
        waiting[matrix.name] = matrix.weight.raw
        if len(waiting) == len(units[_unit(matrix.name)]):
            for name in [name for name in waiting if name not in spool]:
                spool.put(name, [waiting[name]])
                yield name
            waiting.clear()


def _is_fed_back(name: str, files: LoadedModel) -> bool:
    """A tied head must stay the same as the table."""
    return name.startswith("model.layers.") or (name == HEAD and not files.config.tie_word_embeddings)


def _unit(name: str) -> str:
    """What is redone as a whole: a layer, or the head."""
    return "head" if name == HEAD else name.split(".")[2]


def _check_source(files: LoadedModel) -> None:
    for name, weight in files.weights.items():
        if weight.kind not in _SOURCE_KINDS:
            raise ModelFileError(
                f"{files.path}: tensor {name!r} is stored as {weight.kind.name}, so the model is quantized already; "
                "quantize from its F32, F16 or BF16 original."
            )


def _note(
    plan: Plan, importance: Importance | None, options: Mapping[str, Any], source_hash: str, *, is_fed_back: bool
) -> str:
    """All that the bytes depend on, as JSON: goes into the file, and its hash names the job."""
    return json.dumps(
        {
            "understudy": __version__,
            "encoder": ENCODER,
            "plan": plan.name,
            "kinds": {name: kind.name for name, kind in plan.kinds.items() if kind is not StorageType.F32},
            "source": source_hash,
            "calibration": None if importance is None else importance.identity,
            "error_feedback": is_fed_back,
            "calibration_tokens": 0 if importance is None else importance.num_tokens,
            "options": dict(options),
        },
        sort_keys=True,
    )


def _kept(files: LoadedModel) -> dict[str, Any]:
    kept = {key: files.metadata[key] for key in _KEPT_KEYS if key in files.metadata}
    return {"general.name": files.path.stem or "model", **kept}


def _input_of(name: str, files: LoadedModel) -> str:
    """The matrix whose input a tensor multiplies: a tied table is the head."""
    return HEAD if name == TABLE and files.config.tie_word_embeddings else name


def _packed(
    files: LoadedModel, name: str, kind: StorageType, channels: _F32 | None, num_threads: int | None
) -> Iterator[_U8]:
    """A tensor's bytes, slab by slab."""
    weight = files.weights[TABLE if name == HEAD and files.config.tie_word_embeddings else name]
    if len(weight.shape) == 1:
        values = weight.dense() + np.float32(1) if name.endswith("norm.weight") else weight.dense()
        yield _encoded(files, name, values[None], kind, None, None)
        return
    rows, cols = weight.shape
    step = max(1, _SLAB_VALUES // cols)
    row_bytes = num_stored_bytes(weight.kind, (cols,))
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        raw = weight.raw[start * row_bytes : stop * row_bytes]
        if kind is weight.kind:
            yield np.ascontiguousarray(raw)
        else:
            yield _encoded(
                files, name, Weight(raw, weight.kind, (stop - start, cols)).dense(), kind, channels, num_threads
            )
        drop_pages(raw)


def _encoded(
    files: LoadedModel, name: str, values: _F32, kind: StorageType, channels: _F32 | None, num_threads: int | None
) -> _U8:
    try:
        return encode(values, kind, channels, num_threads=num_threads)
    except ValueError as error:
        raise ModelFileError(f"{files.path}: tensor {name!r} cannot be stored as {kind.name}: {error}.") from error
