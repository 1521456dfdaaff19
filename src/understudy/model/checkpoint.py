"""One door to model files."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from understudy.model.config import NemotronConfig
from understudy.model.weights import Weight
from understudy.tokenizer import Tokenizer

__all__ = ["LoadedModel"]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LoadedModel:
    """A model read from its files, weights still memory-mapped.

    Attributes:
        path: the file or folder.
        config: the model's shape.
        weights: tensors by Hugging Face's names. Norm weights are without the 1 that LayerNorm1P adds, whatever the file.
        tokenizer: its tokenizer.
        chat_template: the Jinja template that the file brings, if any.
        metadata: what else the file says of itself.
        file_bytes: size of all files together.
    """

    path: Path
    config: NemotronConfig
    weights: Mapping[str, Weight]
    tokenizer: Tokenizer
    chat_template: str | None
    metadata: Mapping[str, Any]
    file_bytes: int
