"""How strong each input channel is: E[x^2] at the input of every matrix, over dialogues in the chat template."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from understudy.data.dialogue_files import read_dialogue_file
from understudy.data.dialogues import encode_dialogues
from understudy.data.lookup.generate import LookupGenerator
from understudy.data.sources import DIALOGUE_SOURCES, read_dialogues
from understudy.errors import DataError, ModelFileError
from understudy.model.checkpoint import LoadedModel
from understudy.model.config import NemotronConfig
from understudy.model.mapped_file import drop_pages
from understudy.training.streaming import FinalWalk, LayerWalk, walk_layers

__all__ = [
    "GENERATED",
    "CalibrationOptions",
    "Importance",
    "calibrate",
    "calibration_batches",
    "measure_importance",
    "model_hash",
]

_F32 = npt.NDArray[np.float32]

GENERATED = "lookup"
"""The source that needs no files: generated dialogues of personas, lore, tools and small talk."""

_BATCH_TOKENS = 2048
_KEY = "understudy.calibration"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CalibrationOptions:
    """Which texts a model is calibrated on.

    Attributes:
        source: `GENERATED`, a dialogue source of `data.sources`, or a `.jsonl` file of dialogues in that form.
        data: folder of the corpora, for a named source.
        samples: rows of tokens, from 1 up; 64 to 512 are of use.
        length: tokens a row, from 16 up; dialogues are laid end to end and cut.
        seed: of the generated dialogues.
    """

    source: str = GENERATED
    data: Path | None = None
    samples: int = 128
    length: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples < 1 or self.length < 16:
            raise DataError(
                f"Calibration needs at least 1 sample of 16 tokens, got {self.samples} of {self.length}; ask for more."
            )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Importance:
    """What was measured.

    Attributes:
        channels: (inputs,) E[x^2] by the matrix's Hugging Face name; the input table has none.
        identity: hash of the model and the texts.
        num_tokens: tokens that were seen.
    """

    channels: Mapping[str, _F32]
    identity: str
    num_tokens: int


def calibration_batches(files: LoadedModel, options: CalibrationOptions) -> list[Tensor]:
    """Token ids of the calibration texts, a few rows a batch.

    Raises:
        DataError: the source is unknown or missing, or too short for one row.
    """
    wanted = options.samples * options.length
    found: list[npt.NDArray[np.int64]] = []
    total = 0
    dialogues = _dialogues(options)
    while total < wanted:
        part = list(islice(dialogues, 64))
        if not part:
            break
        ids = encode_dialogues(part, files.tokenizer).token_ids.astype(np.int64)
        found.append(ids)
        total += len(ids)
    rows = min(options.samples, total // options.length)
    if not rows:
        raise DataError(
            f"The calibration source {options.source!r} has {total} tokens, too few for one row of {options.length}; "
            "name a longer one."
        )
    table = torch.from_numpy(np.concatenate(found)[: rows * options.length].reshape(rows, options.length))
    return list(table.split(max(1, _BATCH_TOKENS // options.length)))


def _dialogues(options: CalibrationOptions) -> Iterator[dict[str, Any]]:
    source = options.source
    if source == GENERATED:
        return iter(LookupGenerator(options.seed))
    if source.endswith(".jsonl"):
        path = Path(source)
        return read_dialogue_file(path.name, path.parent)
    if source not in DIALOGUE_SOURCES:
        raise DataError(
            f"There is no calibration source {source!r}; choose {GENERATED}, a .jsonl file of dialogues, or one of "
            f"{', '.join(sorted(DIALOGUE_SOURCES))}."
        )
    if options.data is None:
        raise DataError(f"The calibration source {source!r} needs the folder of the corpora; name it with --data.")
    return read_dialogues(source, options.data)


def measure_importance(
    files: LoadedModel,
    batches: Iterable[Tensor],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, _F32]:
    """E[x^2] of each input channel of each matrix.

    Args:
        files: the model; one layer of it is in memory at a time.
        batches: (B, T) ids each.
        progress: called with layers done and layers in all.

    Raises:
        ModelFileError: an activation is not finite.
    """
    batches = list(batches)
    num_tokens = sum(b.numel() for b in batches)
    total = files.config.num_hidden_layers
    sums: dict[str, Tensor] = {}
    for record in walk_layers(files, batches):
        for name, x in _inputs(record):
            squares = x.reshape(-1, x.shape[-1]).double().square().sum(dim=0)
            sums[name] = sums[name] + squares if name in sums else squares
        if progress and record.batch == len(batches) - 1 and isinstance(record, LayerWalk):
            progress(record.layer + 1, total)
    channels: dict[str, _F32] = {}
    for name, value in sums.items():
        mean = (value / num_tokens).numpy().astype(np.float32)
        if not np.isfinite(mean).all():
            raise ModelFileError(
                f"{files.path}: the input of {name} is not finite on calibration text; the weights are damaged."
            )
        channels.update(dict.fromkeys(_matrices(name), mean))
    return channels


def _inputs(record: LayerWalk | FinalWalk) -> list[tuple[str, Tensor]]:
    if isinstance(record, FinalWalk):
        return [("lm_head", record.states)]
    prefix = f"model.layers.{record.layer}"
    return [
        (f"{prefix}.self_attn.qkv", record.attention_input),
        (f"{prefix}.self_attn.o_proj", record.heads),
        (f"{prefix}.mlp.up_proj", record.mlp_input),
        (f"{prefix}.mlp.down_proj", record.neurons),
    ]


def _matrices(name: str) -> list[str]:
    """Names of the matrices that share an input."""
    if name.endswith(".qkv"):
        return [f"{name.removesuffix('qkv')}{part}_proj.weight" for part in "qkv"]
    return [f"{name}.weight"]


def calibrate(
    files: LoadedModel,
    options: CalibrationOptions,
    store: Path | None = None,
    *,
    source_hash: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Importance:
    """Measure, or read back what was measured for the same model and texts.

    Args:
        files: the model.
        options: the texts.
        store: a `.safetensors` file that keeps the result; replaced when the model or the texts have changed.
        source_hash: the model's hash where it is known already.
        progress: called with layers done and layers in all.

    Raises:
        DataError: the texts are missing, or `store` cannot be written.
        ModelFileError: the weights are damaged.
    """
    batches = calibration_batches(files, options)
    identity = _identity(source_hash or model_hash(files), batches)
    num_tokens = sum(b.numel() for b in batches)
    channels = _read_store(store, identity, files.config) if store else None
    if channels is None:
        channels = measure_importance(files, batches, progress=progress)
        if store:
            _write_store(store, channels, identity, num_tokens)
    return Importance(channels=channels, identity=identity, num_tokens=num_tokens)


def model_hash(files: LoadedModel) -> str:
    """SHA-256 of a model's configuration and all its weights, whatever file they lie in."""
    digest = hashlib.sha256(json.dumps(dataclasses.asdict(files.config), sort_keys=True).encode())
    for name in sorted(files.weights):
        weight = files.weights[name]
        digest.update(f"{name} {weight.kind.name} {weight.shape}".encode())
        digest.update(np.ascontiguousarray(weight.raw).data)
        drop_pages(weight.raw)
    return digest.hexdigest()


def _identity(source_hash: str, batches: list[Tensor]) -> str:
    digest = hashlib.sha256(source_hash.encode())
    for batch in batches:
        digest.update(f"{tuple(batch.shape)}".encode())
        digest.update(batch.numpy().tobytes())
    return digest.hexdigest()


def _read_store(store: Path, identity: str, config: NemotronConfig) -> dict[str, _F32] | None:
    """What a file holds, or None where it is of something else."""
    if not store.is_file():
        return None
    try:
        with safe_open(store, framework="np") as file:
            metadata = file.metadata() or {}
            if json.loads(metadata.get(_KEY, "{}")).get("identity") != identity:
                return None
            names = file.keys()
            channels = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, ValueError, OSError) as error:
        raise DataError(f"{store} is no calibration file ({error}); remove it, it is made again.") from error
    wanted = 6 * config.num_hidden_layers + 1
    if len(channels) != wanted:
        raise DataError(f"{store} has {len(channels)} tensors, expected {wanted}; remove it, it is made again.")
    return channels


def _write_store(store: Path, channels: Mapping[str, _F32], identity: str, num_tokens: int) -> None:
    part = store.with_name(store.name + ".part")
    note = json.dumps({"identity": identity, "num_tokens": num_tokens}, sort_keys=True)
    try:
        save_file(dict(channels), part, metadata={_KEY: note})
        part.replace(store)
    except (OSError, SafetensorError) as error:
        part.unlink(missing_ok=True)
        raise DataError(f"{store} cannot be written: {error}; make room or choose another folder.") from error
