"""Hugging Face folders in and out of training."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from understudy.errors import DataError
from understudy.model.checkpoint import LoadedModel, load_model
from understudy.model.config import NemotronConfig
from understudy.prompt.chat_template import NEMOTRON_CHAT_TEMPLATE
from understudy.prompt.template import TURN_MARKER
from understudy.tokenizer import Tokenizer
from understudy.training.model import NemotronLM, from_hf_tensors

__all__ = ["read_lm", "write_folder", "write_json", "write_texts"]

_SHARD_BYTES = 4 << 30
_HEADER_BYTES = 1 << 18
_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def read_lm(path: Path, *, device: torch.device | str = "cpu") -> tuple[NemotronLM, LoadedModel]:
    """Load a model folder or GGUF file for training.

    Returns:
        The model, float32, on the device, and the files that it came from.

    Raises:
        ModelFileError: there is no model, or it is damaged.
    """
    files = load_model(path)
    with torch.device("meta"):
        model = NemotronLM(files.config)
    model.to_empty(device=device)
    from_hf_tensors(model, {name: torch.from_numpy(weight.dense()) for name, weight in files.weights.items()})
    return model, files


def write_folder(
    folder: Path,
    config: NemotronConfig,
    tensors: Mapping[str, Tensor],
    tokenizer: Tokenizer,
    *,
    chat_template: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a folder that transformers, vLLM and Understudy read; weights come last, so a torn folder has none.

    Args:
        folder: where to; made if missing, files there are replaced.
        config: the model's shape.
        tensors: by Hugging Face's names; sharded above 4 GiB.
        tokenizer: its tokenizer.
        chat_template: Jinja template; the model's own by default.
        metadata: goes into the safetensors header, such as "understudy.recipe".

    Raises:
        DataError: the disk refuses.
    """
    try:
        write_texts(folder, config, tokenizer, chat_template=chat_template)
        _write_weights(folder, tensors, {"format": "pt", **(metadata or {})})
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error}; make room or choose another folder.") from error


def write_texts(
    folder: Path,
    config: NemotronConfig,
    tokenizer: Tokenizer,
    *,
    chat_template: str | None = None,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Write what a folder has beside its weights.

    Args:
        folder: where to; made if missing.
        config: the model's shape.
        tokenizer: its tokenizer.
        chat_template: Jinja template; the model's own by default.
        more: further keys of `config.json`.
    """
    names = {token_id: text for text, token_id in tokenizer.specials.items()}
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": names.get(config.bos_token_id),
        "eos_token": names.get(config.eos_token_id),
        "pad_token": names.get(config.pad_token_id or 0),
        "add_bos_token": False,
        "model_max_length": config.max_position_embeddings,
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", {**config.to_hf(), **(more or {})})
    write_json(folder / "generation_config.json", _generation_keys(config, tokenizer))
    write_json(folder / "tokenizer.json", tokenizer.definition)
    write_json(folder / "tokenizer_config.json", tokenizer_config)
    (folder / "chat_template.jinja").write_text(chat_template or NEMOTRON_CHAT_TEMPLATE, encoding="utf-8")


def _generation_keys(config: NemotronConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """Where transformers and vLLM stop: at the end of the text, and where the next turn would begin."""
    turn = tokenizer.special_id(TURN_MARKER)
    stops = [config.eos_token_id] if turn is None else [config.eos_token_id, turn]
    return {"bos_token_id": config.bos_token_id, "eos_token_id": stops, "pad_token_id": config.pad_token_id}


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file that appears only when it is complete."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")
    part.replace(path)


def _write_weights(folder: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """One tensor in memory at a time; the same tensors give the same bytes, which `safetensors.save_file` does not."""
    parts: list[tuple[Path, list[str]]] = []
    total = 0
    waiting = iter(tensors)
    name = next(waiting, None)
    while name is not None:
        part = folder / f"model-{len(parts) + 1:05}.safetensors.part"
        written: list[str] = []
        with part.open("wb") as file:
            file.write(bytes(_HEADER_BYTES))
            header: dict[str, Any] = {"__metadata__": metadata}
            while name is not None and (not written or file.tell() < _SHARD_BYTES):
                begin = file.tell() - _HEADER_BYTES
                tensor = tensors[name].detach().contiguous().cpu()
                file.write(tensor.flatten().view(torch.uint8).numpy().data)
                end = file.tell() - _HEADER_BYTES
                header[name] = {
                    "dtype": _DTYPES[tensor.dtype],
                    "shape": list(tensor.shape),
                    "data_offsets": [begin, end],
                }
                total += end - begin
                written.append(name)
                name = next(waiting, None)
            _write_header(file, header)
        parts.append((part, written))
    files = [f"model-{n:05}-of-{len(parts):05}.safetensors" for n in range(1, len(parts) + 1)]
    if len(parts) == 1:
        files = ["model.safetensors"]
    for (part, _), file_name in zip(parts, files, strict=True):
        part.replace(folder / file_name)
    if len(parts) > 1:
        weight_map = {name: file for file, (_, names) in zip(files, parts, strict=True) for name in names}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_json(folder / "model.safetensors.index.json", index)


def _write_header(file: BinaryIO, header: Mapping[str, Any]) -> None:
    """Length and JSON in front of the data, filled up with spaces, as the format allows."""
    text = json.dumps(header).encode()
    room = _HEADER_BYTES - 8
    if len(text) > room:
        raise DataError(f"The header of the weights takes {len(text)} bytes, more than {room}; shorten the metadata.")
    file.seek(0)
    file.write(struct.pack("<Q", room) + text.ljust(room))
