"""A model and the names under which clients ask for it."""

import dataclasses
from pathlib import Path
from typing import Any, Self

from understudy.engine import Engine
from understudy.errors import ServeError
from understudy.npc.model import Model

__all__ = ["ServedModel", "load_served_model"]

# What the published model's page and its clients ask for: they work unchanged. It is accepted, never listed.
_PUBLISHED_NAME = "nvidia/nemotron-mini-4b-instruct"
_MAX_NAME = 256


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ServedModel:
    """A loaded model with a public name.

    Attributes:
        name: what `/v1/models` lists.
        model: the model itself.
        created: Unix time in s that `/v1/models` tells.

    Raises:
        ServeError: the name is empty, too long, or holds control characters.
    """

    name: str
    model: Model
    created: int

    def __post_init__(self) -> None:
        if not (0 < len(self.name.strip()) <= _MAX_NAME and self.name.isprintable()):
            raise ServeError(f"The model's name must be 1 to {_MAX_NAME} printable characters, got {self.name!r}.")

    @classmethod
    def wrap(cls, model: Model, *, name: str | None = None, created: int = 0) -> Self:
        """Serve a model that is loaded already; its default name is that of its file."""
        return cls(name=name or model.files.path.stem, model=model, created=created)

    @property
    def engine(self) -> Engine:
        """What runs it."""
        return self.model.engine

    @property
    def max_model_len(self) -> int:
        """Context length in tokens."""
        return self.model.files.config.max_position_embeddings

    def has_name(self, name: str) -> bool:
        """Whether a client that asks for this name means this model."""
        return name in (self.name, self.model.files.path.stem, _PUBLISHED_NAME)

    def to_json(self, *, name: str | None = None) -> dict[str, Any]:
        """The card that `/v1/models` shows.

        Args:
            name: what the client calls it.
        """
        return {
            "id": name or self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "understudy",
            "root": self.name,
            "parent": None,
            "max_model_len": self.max_model_len,
        }


def load_served_model(
    path: Path | None, *, name: str | None = None, backend: str = "auto", gpu_bytes: int | None = None
) -> ServedModel:
    """Load a model file or folder, or (None) the embedded model.

    Raises:
        ModelFileError: the file is missing, damaged or foreign.
        EngineError: the backend does not exist or cannot run the model.
        ServeError: the name cannot be used.
    """
    model = Model.load(path, backend=backend, gpu_bytes=gpu_bytes)
    try:
        return ServedModel.wrap(model, name=name, created=int(model.files.path.stat().st_mtime))
    except (OSError, ServeError):
        model.close()
        raise
