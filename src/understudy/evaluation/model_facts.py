"""What a model file says of itself, and its hash."""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from understudy.errors import DataError
from understudy.evaluation.report import ModelFacts
from understudy.model.checkpoint import LoadedModel

__all__ = ["describe_model", "hash_files", "hash_model"]

_PART_BYTES = 8 << 20
_MAX_HEADER_BYTES = 100 << 20
_RECIPE = "understudy.recipe"
_FOLDER_FILES = ("config.json", "tokenizer.json", "*.safetensors", "*.bin", "*.index.json")


def describe_model(files: LoadedModel) -> ModelFacts:
    """Facts of a loaded model; reads all of its files once for the hash.

    Raises:
        DataError: a file cannot be read.
    """
    stored: Counter[str] = Counter()
    for weight in files.weights.values():
        stored[weight.kind.name] += weight.num_bytes
    return ModelFacts(
        file=files.path.resolve().name,
        sha256=hash_model(files.path),
        parameters=files.config.num_parameters,
        bits_per_weight=8 * stored.total() / files.config.num_parameters,
        file_bytes=files.file_bytes,
        config=dataclasses.asdict(files.config),
        formats=dict(stored),
        recipe=_recipe(files),
    )


def hash_model(path: Path) -> str:
    """SHA-256 of a model file; of a folder's weights, shape and tokenizer together, whatever else is there.

    Raises:
        DataError: a file cannot be read.
    """
    if path.is_dir():
        return hash_files({file.name: file for pattern in _FOLDER_FILES for file in path.glob(pattern)})
    return hash_files({"": path})


def hash_files(files: Mapping[str, Path]) -> str:
    """SHA-256 of files under names; of one file under no name it is the file's own.

    Raises:
        DataError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for name, path in sorted(files.items()):
        digest.update(name.encode())
        try:
            with path.open("rb") as file:
                while part := file.read(_PART_BYTES):
                    digest.update(part)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}; check the path and its permissions.") from error
    return digest.hexdigest()


def _recipe(files: LoadedModel) -> Mapping[str, Any] | None:
    """The resolved recipe inside a GGUF's metadata or a safetensors header."""
    text = files.metadata.get(_RECIPE)
    if text is None and files.path.is_dir():
        text = next(filter(None, map(_header_recipe, sorted(files.path.glob("*.safetensors")))), None)
    try:
        recipe = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return None
    return recipe if isinstance(recipe, dict) else None


def _header_recipe(path: Path) -> str | None:
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > min(_MAX_HEADER_BYTES, path.stat().st_size):
            return None
        try:
            metadata = json.loads(file.read(size)).get("__metadata__", {})
        except (ValueError, RecursionError, AttributeError):
            return None
    text = metadata.get(_RECIPE) if isinstance(metadata, dict) else None
    return text if isinstance(text, str) else None
