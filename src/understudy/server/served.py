"""Models and the names under which clients ask for them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from understudy.engine import AnyEngine, Generation
from understudy.errors import ModelFileError, ServeError
from understudy.model.checkpoint import load_model
from understudy.model.embedded import embedded_model_path
from understudy.model.lora import read_adapter, with_adapter
from understudy.model.mapped_file import file_marks
from understudy.npc.model import Model
from understudy.server.options import ServerOptions
from understudy.server.problem import Problem

__all__ = ["ServedModel", "Shelf", "load_served_model"]

# What the published model's page and its clients ask for: they work unchanged. It is accepted, never listed.
_PUBLISHED_NAME = "nvidia/nemotron-mini-4b-instruct"
_MAX_NAME = 256


class ServedModel:
    """A model with a public name, loaded or about to be. It is loaded once: `renewed` makes another of the same files.

    Attributes:
        name: what `/v1/models` lists.
        created: Unix time in s that `/v1/models` tells.
        parent: name of the model that it adapts; None for one of its own.
        options: limits; the application sets them.
    """

    def __init__(
        self,
        name: str,
        *,
        stem: str,
        created: int,
        load: Callable[[], Model],
        parent: str | None = None,
        again: "Callable[[], ServedModel] | None" = None,
    ) -> None:
        """Name a model; `load` makes it ready.

        Args:
            name: what `/v1/models` lists.
            stem: the file's name, which is accepted, too.
            created: Unix time in s.
            load: called once, takes a while.
            parent: name of the model that it adapts.
            again: makes another of the same files; None where there are none.

        Raises:
            ServeError: the name is empty, too long, or holds control characters.
        """
        if not (0 < len(name.strip()) <= _MAX_NAME and name.isprintable()):
            raise ServeError(f"The model's name must be 1 to {_MAX_NAME} printable characters, got {name!r}.")
        self.name, self.created, self.parent = name, created, parent
        self.options = ServerOptions()
        self._stem, self._load, self._again = stem, load, again
        self._num_users = 0
        self._model: Model | None = None
        self._marks: list[list[int]] = []  # of its file, when it was loaded
        self._successor: ServedModel | None = None
        self._on_done: Callable[[Generation], None] | None = None

    @classmethod
    def wrap(cls, model: Model, *, name: str | None = None, created: int = 0) -> Self:
        """Serve a model that is loaded already; its default name is that of its file."""
        stem = model.files.path.stem
        served = cls(name or stem, stem=stem, created=created, load=lambda: model)
        served.load()
        return served

    @classmethod
    def at(
        cls,
        path: Path | None,
        *,
        name: str | None = None,
        adapter: Path | None = None,
        base: "ServedModel | None" = None,
        **how: Any,
    ) -> Self:
        """Serve a file or folder, or (None) the embedded model, once it is loaded.

        Args:
            path: the file or folder.
            name: what clients call it; default: the file's name.
            adapter: LoRA matrices beside it; whether they fit is looked at now.
            base: the model at `path`, where there is an adapter; it shares its weights where it can.
            how: further arguments of `Model.load`.

        Raises:
            ModelFileError: there is no such file, or the adapter is damaged or does not fit.
            ServeError: the name cannot be used.
        """
        found = adapter or path or embedded_model_path()
        try:
            created = int(found.stat().st_mtime)
        except OSError as error:
            raise ModelFileError(f"There is no model at {found}; name a GGUF file or a folder.") from error
        if adapter is not None:
            with_adapter(load_model(path or embedded_model_path(in_16_bits=True)), read_adapter(adapter))

        def load() -> Model:
            if adapter is not None and base is not None and (shared := base.shareable) is not None:
                return shared.adapted(adapter)
            return Model.load(path, adapter=adapter, **how)

        def again() -> ServedModel:
            return cls.at(path, name=name, adapter=adapter, base=base, **how)

        parent = None if base is None else base.name
        return cls(name or found.stem, stem=found.stem, created=created, load=load, parent=parent, again=again)

    @property
    def shareable(self) -> Model | None:
        """The model whose weights an adapter may share, by its file as it is now; None where that cannot be."""
        newest = self
        while newest._successor is not None:
            newest = newest._successor
        model = newest._model
        if model is None or not model.can_share or model.engine.absence is not None:
            return None
        return model if file_marks(model.files.path) == newest._marks else None

    def renewed(self) -> "ServedModel":
        """Another one of the same name and files as they are now, loaded; blocks, and this one serves on.

        Raises:
            ModelFileError: a file is gone, damaged or foreign.
            EngineError: the backend cannot run the model.
            ServeError: this one came from no file.
        """
        if self._again is None:
            raise ServeError(f"The model {self.name!r} came from no file, so it cannot be reloaded.")
        other = self._again()
        other.options, other._on_done = self.options, self._on_done
        other.load()
        self._successor = other
        return other

    def load(self) -> None:
        """Make it ready; blocks.

        Raises:
            ModelFileError: the file is damaged or foreign.
            EngineError: the backend does not exist or cannot run the model.
        """
        if self._model is None:
            model = self._load()
            self._marks = file_marks(model.files.path)
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
        if self._successor is not None:  # an adapter's way to that one leads by here
            self._model = None

    @property
    def is_ready(self) -> bool:
        """Whether it is loaded, and its engine takes requests."""
        return self._model is not None and self._model.engine.absence is None

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
    def engine(self) -> AnyEngine:
        """What runs it."""
        return self.model.engine

    @property
    def max_model_len(self) -> int:
        """Context length in tokens."""
        return self.model.files.config.max_position_embeddings

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep it open although another takes its place: held while requests are put to the engine.

        It is entered and left in the event loop, in one step with the look at the shelf.
        """
        self._num_users += 1
        try:
            yield
        finally:
            self._num_users -= 1

    @property
    def is_idle(self) -> bool:
        """Whether nobody uses it, and its engine has nothing to do."""
        stats = self.engine.stats()
        return not (self._num_users or stats.num_running or stats.num_waiting)

    def admit(self, *, num_others: int = 0) -> None:
        """Refuse one more request where too many wait already, or nobody could answer it.

        Args:
            num_others: that wait elsewhere than in the engine.

        Raises:
            Problem: 429; 503, its engine is not there.
        """
        engine = self.engine
        if (absence := engine.absence) is not None:
            raise Problem(
                503,
                str(absence),
                type="server_error",
                code="engine_absent",
                headers={"retry-after": "2"},
            )
        if engine.stats().num_waiting + num_others >= self.options.max_waiting:
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
            "root": self.parent or self.name,
            "parent": self.parent,
            "max_model_len": self.max_model_len,
        }


class Shelf:
    """The models of a server.

    Attributes:
        models: at least one; the first answers where nobody says which.
        retired: those whose place another took, and that still have something to do.
    """

    def __init__(self, models: Sequence[ServedModel]) -> None:
        """Hold models.

        Raises:
            ServeError: two have one name.
        """
        names = [model.name for model in models]
        if doubled := next((name for name in names if names.count(name) > 1), None):
            raise ServeError(f"Two models have the name {doubled!r}; name them apart: --model NAME=PATH.")
        self.models = tuple(models)
        self.retired: list[ServedModel] = []

    def replace(self, old: ServedModel, new: ServedModel) -> None:
        """Let another answer from now on; the old one is retired."""
        self.models = tuple(new if model is old else model for model in self.models)
        self.retired.append(old)

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
        for model in (*self.models, *self.retired):
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
