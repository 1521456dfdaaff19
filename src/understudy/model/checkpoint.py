"""One door to model files: a GGUF file, or a Hugging Face folder."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from understudy.errors import ModelFileError
from understudy.model.config import NemotronConfig
from understudy.model.gguf_keys import config_from_gguf
from understudy.model.gguf_reader import read_gguf
from understudy.model.gguf_tokenizer import tokenizer_from_gguf
from understudy.model.hub import find_cached, is_hub_name
from understudy.model.mapped_file import read_json_object
from understudy.model.safetensors_file import read_safetensors
from understudy.model.tensor_names import check_tensors, from_gguf_names
from understudy.model.torch_file import read_torch_file
from understudy.model.weights import Weight
from understudy.tokenizer import Tokenizer

__all__ = ["LoadedModel", "load_model"]

_Reader = Callable[[Path], dict[str, Weight]]
_WEIGHT_FILES: dict[str, _Reader] = {"model.safetensors": read_safetensors, "pytorch_model.bin": read_torch_file}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LoadedModel:
    """A model read from its files, weights still memory-mapped.

    Attributes:
        path: the file or folder.
        config: the model's shape.
        weights: tensors by Hugging Face's names. Norm weights lack the 1 that LayerNorm1P adds, whatever the file.
        tokenizer: its tokenizer.
        chat_template: the Jinja template that the file brings, if any.
        metadata: what else the file says of itself: GGUF's keys but for the tokenizer's, or `config.json`.
        file_bytes: size of the weight files together.
    """

    path: Path
    config: NemotronConfig
    weights: Mapping[str, Weight]
    tokenizer: Tokenizer
    chat_template: str | None
    metadata: Mapping[str, Any]
    file_bytes: int


def load_model(path: Path) -> LoadedModel:
    """Load a `.gguf` file, a folder with `config.json`, `tokenizer.json` and the weights, or a pulled "owner/name".

    In a folder the first of these counts: `model.safetensors`, `model.safetensors.index.json`, `pytorch_model.bin`,
    `pytorch_model.bin.index.json`. Weights are mapped, not read; nothing in any file is ever executed.

    Raises:
        ModelFileError: there is no model, it is damaged, or it is of another architecture.
    """
    if path.is_dir():
        model = _load_folder(path)
    elif path.name.endswith((".safetensors", ".bin", ".json", ".pt", ".pth")):
        raise ModelFileError(f"{path} is one file of a model folder; give the folder {path.parent} instead.")
    elif path.exists():
        model = _load_gguf(path)
    elif cached := find_cached(path.as_posix()):
        model = load_model(cached)
    else:
        name = path.as_posix()
        pull = f", or first: understudy pull {name}" if is_hub_name(name) else ""
        raise ModelFileError(f"There is no model at {path}; give a .gguf file or a Hugging Face folder{pull}.")
    if model.tokenizer.vocab_size > model.config.vocab_size:
        raise ModelFileError(
            f"{path}: the tokenizer has {model.tokenizer.vocab_size} tokens, the model {model.config.vocab_size}; "
            "they must come from the same model."
        )
    return model


def _load_gguf(path: Path) -> LoadedModel:
    file = read_gguf(path)
    names = from_gguf_names(file.tensors)
    table = names.get("model.embed_tokens.weight")
    try:
        config = config_from_gguf(
            file.metadata, vocab_size=table.shape[0] if table else 0, has_output="lm_head.weight" in names
        )
        tokenizer = tokenizer_from_gguf(file.metadata)
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from error
    weights = check_tensors(names, config, str(path))
    for name, weight in weights.items():
        if name.endswith("norm.weight"):
            weights[name] = Weight.from_array(weight.dense() - np.float32(1))
    template = file.metadata.get("tokenizer.chat_template")
    return LoadedModel(
        path=path,
        config=config,
        weights=weights,
        tokenizer=tokenizer,
        chat_template=template if isinstance(template, str) else None,
        # A large vocabulary's lists take as much memory as the tokenizer that was made of them.
        metadata={key: value for key, value in file.metadata.items() if not key.startswith("tokenizer.")},
        file_bytes=file.num_bytes,
    )


def _load_folder(folder: Path) -> LoadedModel:
    if not (folder / "config.json").is_file():
        raise ModelFileError(
            f"{folder} has no config.json, so is no model folder; give a .gguf file or a Hugging Face folder."
        )
    raw = read_json_object(folder / "config.json")
    try:
        config = NemotronConfig.from_hf(raw)
    except ModelFileError as error:
        raise ModelFileError(f"{folder}: {error}") from error
    tensors, file_bytes = _read_folder_weights(folder)
    return LoadedModel(
        path=folder,
        config=config,
        weights=check_tensors(tensors, config, str(folder)),
        tokenizer=Tokenizer.from_file(folder / "tokenizer.json"),
        chat_template=_folder_template(folder),
        metadata=raw,
        file_bytes=file_bytes,
    )


def _read_folder_weights(folder: Path) -> tuple[dict[str, Weight], int]:
    for name, reader in _WEIGHT_FILES.items():
        if (folder / name).is_file():
            return reader(folder / name), (folder / name).stat().st_size
        if (folder / f"{name}.index.json").is_file():
            return _read_shards(folder, folder / f"{name}.index.json", reader)
    raise ModelFileError(
        f"{folder} has no weights; expected model.safetensors or pytorch_model.bin, whole or with an index.json."
    )


def _read_shards(folder: Path, index: Path, reader: _Reader) -> tuple[dict[str, Weight], int]:
    shard_of = read_json_object(index).get("weight_map")
    if not isinstance(shard_of, dict) or not shard_of or not all(isinstance(s, str) for s in shard_of.values()):
        raise ModelFileError(f"{index} has no weight_map of tensor names to file names; get the file again.")
    tensors: dict[str, Weight] = {}
    file_bytes = 0
    for shard in sorted(set(shard_of.values())):
        if Path(shard).name != shard or "\\" in shard or "\0" in shard:
            raise ModelFileError(f"{index} names the file {shard!r}; expected files of the same folder.")
        found = reader(folder / shard)
        file_bytes += (folder / shard).stat().st_size
        if doubled := found.keys() & tensors.keys():
            raise ModelFileError(f"{folder}: tensor {min(doubled)!r} is in two shards; get the model again.")
        tensors |= found
    for name, shard in shard_of.items():
        if name not in tensors:
            raise ModelFileError(
                f"{folder / shard} lacks tensor {name!r}, which {index.name} promises; get both again."
            )
    return tensors, file_bytes


def _folder_template(folder: Path) -> str | None:
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ModelFileError(f"{path} is not readable UTF-8 text: {error}.") from error
    path = folder / "tokenizer_config.json"
    template = read_json_object(path).get("chat_template") if path.is_file() else None
    if isinstance(template, list):
        named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None
