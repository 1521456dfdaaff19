"""Which model it is: enough to tell whether saved keys and values are its own."""

import dataclasses
import hashlib
import json
from typing import Any, Self

from understudy.engine import KvLayout
from understudy.model.checkpoint import LoadedModel

__all__ = ["ModelFingerprint"]

_WHOLE_BYTES = 16 << 10  # a tensor up to here is read whole
_NUM_SAMPLES = 8
_SAMPLE_BYTES = 512
_WORDS = {
    "weights": "its weights differ",
    "config": "its shape differs",
    "tokenizer": "its tokenizer differs",
    "kv_format": "its keys and values are kept in another format",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelFingerprint:
    """Hashes of a model's parts.

    Attributes:
        weights: of every tensor's name, format, shape, and bytes: all of a small one, samples of a large one.
        config: of the shape.
        tokenizer: of its definition.
        kv_format: how the backend keeps keys and values; "" where it gives none out.
    """

    weights: str
    config: str
    tokenizer: str
    kv_format: str

    @classmethod
    def of(cls, files: LoadedModel, kv: KvLayout | None) -> Self:
        """Take a model's fingerprint; reads a few megabytes of its file at most.

        Args:
            files: the model.
            kv: how its keys and values are kept; None where none are given out.
        """
        weights = hashlib.sha256()
        for name in sorted(files.weights):
            weight = files.weights[name]
            weights.update(f"{name}/{weight.kind}/{weight.shape}/{weight.num_bytes}\n".encode())
            if weight.num_bytes <= _WHOLE_BYTES:
                weights.update(weight.raw.tobytes())
                continue
            last = weight.num_bytes - _SAMPLE_BYTES
            for n in range(_NUM_SAMPLES):
                at = last * n // (_NUM_SAMPLES - 1)
                weights.update(weight.raw.reshape(-1)[at : at + _SAMPLE_BYTES].tobytes())
        return cls(
            weights=weights.hexdigest(),
            config=_hash_of(dataclasses.asdict(files.config)),
            tokenizer=_hash_of(files.tokenizer.definition),
            kv_format=kv.format if kv else "",
        )

    def difference(self, saved: Any) -> str | None:
        """Why a saved fingerprint, `dataclasses.asdict` of one, is not this model's, in words; None if it is."""
        if not isinstance(saved, dict):
            return "its fingerprint is missing"
        found = dataclasses.asdict(self)
        return next((words for key, words in _WORDS.items() if saved.get(key) != found[key]), None)


def _hash_of(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
