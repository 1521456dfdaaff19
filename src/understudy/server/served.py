"""Models and the names under which clients ask for them."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from understudy.engine import Engine, Generation
from understudy.errors import ModelFileError, ServeError
from understudy.model.embedded import embedded_model_path
from understudy.npc.model import Model
from understudy.server.options import ServerOptions
from understudy.server.problem import Problem

__all__ = ["ServedModel", "Shelf", "load_served_model"]

# What the published model's page and its clients ask for: they work unchanged. It is accepted, never listed.
_PUBLISHED_NAME = "nvidia/nemotron-mini-4b-instruct"
_MAX_NAME = 256


class ServedModel:
    """A model with a public name, loaded or about to be.

    Attributes:
        name: what `/v1/models` lists.
        created: Unix time in s that `/v1/models` tells.
        options: limits; the application sets them.
    """

    def __init__(self, name: str, *, stem: str, created: int, load: Callable[[], Model]) -> None:
        """Name a model; `load` makes it ready.

        Args:
            name: what `/v1/models` lists.
            stem: the file's name, which is accepted, too.
            created: Unix time in s.
            load: called once, takes a while.

        Raises:
            ServeError: the name is empty, too long, or holds control characters.
        """
        if not (0 < len(name.strip()) <= _MAX_NAME and name.isprintable()):
            raise ServeError(f"The model's name must be 1 to {_MAX_NAME} printable characters, got {name!r}.")
        self.name, self.created = name, created
        self.options = ServerOptions()
        self._stem, self._load = stem, load
        self._model: Model | None = None
        self._on_done: Callable[[Generation], None] | None = None

    @classmethod
    def wrap(cls, model: Model, *, name: str | None = None, created: int = 0) -> Self:
        """Serve a model that is loaded already; its default name is that of its file."""
        stem = model.files.path.stem
        served = cls(name or stem, stem=stem, created=created, load=lambda: model)
        served.load()
        return served

    @classmethod
    def at(cls, path: Path | None, *, name: str | None = None, **how: Any) -> Self:
        """Serve a file or folder, or (None) the embedded model, once it is loaded.

        Args:
            path: the file or folder.
            name: what clients call it; default: the file's name.
            how: further arguments of `Model.load`.

        Raises:
            ModelFileError: there is no such file.
            ServeError: the name cannot be used.
        """
        found = path or embedded_model_path()
        try:
            created = int(found.stat().st_mtime)
        except OSError as error:
            raise ModelFileError(f"There is no model at {found}; name a GGUF file or a folder.") from error

        def load() -> Model:
            return Model.load(path, **how)

        return cls(name or found.stem, stem=found.stem, created=created, load=load)

    def load(self) -> None:
        """Make it ready; blocks.

        Raises:
            ModelFileError: the file is damaged or foreign.
            EngineError: the backend does not exist or cannot run the model.
        """
        if self._model is None:
            model = self._load()
            model.engine.on_done = self._on_done
            self._model = model

    @property
    def on_done(self) -> Callable[[Generation], None] | None:
        """Who is told of each request that ended, see `Engine.on_done`."""
        return self._on_done

    @on_done.setter
    def on_done(self, listener: Callable[[Generation], None]) -> None:
        self._on_done = listener
        if self._model is not None:
            self._model.engine.on_done = listener

    def close(self) -> None:
        """End its thread; what is being generated fails."""
        if self._model is not None:
            self._model.close()

    @property
    def is_ready(self) -> bool:
        """Whether it is loaded."""
        return self._model is not None

    @property
    def model(self) -> Model:
        """The model itself.

        Raises:
            Problem: 503, it is still loading.
        """
        if self._model is None:
            raise Problem(
                503,
                f"The model {self.name!r} is still loading; send it again in a moment.",
                type="server_error",
                code="model_loading",
                headers={"retry-after": "2"},
            )
        return self._model

    @property
    def engine(self) -> Engine:
        """What runs it."""
        return self.model.engine

    @property
    def max_model_len(self) -> int:
        """Context length in tokens."""
        return self.model.files.config.max_position_embeddings

    def admit(self, *, num_others: int = 0) -> None:
        """Refuse one more request where too many wait already.

        Args:
            num_others: that wait elsewhere than in the engine.

        Raises:
            Problem: 429.
        """
        if self.engine.stats().num_waiting + num_others >= self.options.max_waiting:
            raise Problem(
                429,
                "Too many requests wait already; send it again in a moment.",
                type="rate_limit_error",
                code="rate_limit_exceeded",
                headers={"retry-after": "1"},
            )

    def has_name(self, name: str) -> bool:
        """Whether a client that asks for this name means this model."""
        return name in (self.name, self._stem)

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


@dataclasses.dataclass(frozen=True)
class Shelf:
    """The models of a server.

    Attributes:
        models: at least one; the first answers where nobody says which.

    Raises:
        ServeError: two have one name.
    """

    models: Sequence[ServedModel]

    def __post_init__(self) -> None:
        names = [model.name for model in self.models]
        if doubled := next((name for name in names if names.count(name) > 1), None):
            raise ServeError(f"Two models have the name {doubled!r}; name them apart: --model NAME=PATH.")

    @property
    def default(self) -> ServedModel:
        """The first."""
        return self.models[0]

    @property
    def is_ready(self) -> bool:
        """Whether all are loaded."""
        return all(model.is_ready for model in self.models)

    def find(self, name: str) -> ServedModel:
        """The model that a client asks for.

        Raises:
            Problem: 404.
        """
        named = [model for model in self.models if model.name == name]
        found = [*named, *(model for model in self.models if model.has_name(name))]
        if not found and name == _PUBLISHED_NAME:
            return self.default
        if not found:
            here = " or ".join(repr(model.name) for model in self.models)
            raise Problem(
                404,
                f"The model {name[:200]!r} does not exist here; use {here}.",
                param="model",
                code="model_not_found",
            )
        return found[0]

    def load(self) -> None:
        """Make all ready, one after another; blocks.

        Raises:
            ModelFileError: a file is damaged or foreign.
            EngineError: the backend does not exist or cannot run a model.
        """
        for model in self.models:
            model.load()

    def close(self) -> None:
        """End all that is being generated."""
        for model in self.models:
            model.close()


def load_served_model(path: Path | None, *, name: str | None = None, **how: Any) -> ServedModel:
    """Load a model file or folder, or (None) the embedded model; arguments are those of `ServedModel.at`.

    Raises:
        ModelFileError: the file is missing, damaged or foreign.
        EngineError: the backend does not exist or cannot run the model.
        ServeError: the name cannot be used.
    """
    served = ServedModel.at(path, name=name, **how)
    served.load()
    return served
