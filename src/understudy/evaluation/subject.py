"""What is evaluated: a model, its parent and the data, each opened when it is first needed."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import numpy as np

from understudy.engine import Backend, Engine
from understudy.errors import DataError
from understudy.model.checkpoint import LoadedModel
from understudy.npc.model import Model

__all__ = ["Subject"]


class Subject:
    """A model under evaluation.

    Attributes:
        path: GGUF file or Hugging Face folder.
        parent_path: the model that it was made from, if divergences are wanted.
        data: folder of the corpora, as `--data` of training; None for none.
        output: folder for transcripts.
        seed: chooses items where `limit` leaves some out, and the look-up probes.
        limit: most items of a task (windows, dialogues, questions); None for the task's own number.
    """

    def __init__(
        self,
        path: Path,
        *,
        output: Path,
        parent: Path | None = None,
        data: Path | None = None,
        seed: int = 0,
        limit: int | None = None,
    ) -> None:
        """Note what is to be evaluated; nothing is opened yet.

        Raises:
            DataError: the limit is below one, or the data folder does not exist.
        """
        if limit is not None and limit < 1:
            raise DataError(f"The limit of items must be at least 1, got {limit}; leave it out to take all.")
        if data is not None and not data.is_dir():
            raise DataError(f"There is no data folder {data}; name the folder that holds the corpora, or leave it out.")
        self.path, self.parent_path, self.data = path, parent, data
        self.output, self.seed, self.limit = output, seed, limit

    @cached_property
    def _model(self) -> Model:
        return _at_rest(self.path)

    @cached_property
    def _parent(self) -> Model | None:
        return _at_rest(self.parent_path) if self.parent_path else None

    @property
    def files(self) -> LoadedModel:
        """The model's files, weights memory-mapped."""
        return self._model.files

    @property
    def backend(self) -> Backend:
        """What computes the model. Nobody else uses it outside `talking`."""
        return self._model.backend

    @property
    def parent(self) -> tuple[LoadedModel, Backend] | None:
        """The parent's files and backend, if a parent was named."""
        return (self._parent.files, self._parent.backend) if self._parent else None

    @property
    def resting_model(self) -> Model:
        """The model with its engine closed: good to encode prompts with."""
        return self._model

    @contextmanager
    def talking(self) -> Iterator[Model]:
        """The model with a fresh engine over the same weights; its thread has ended when the block is left."""
        with Engine(self._model.backend, self._model.files.tokenizer) as engine:
            yield dataclasses.replace(self._model, engine=engine)

    def data_file(self, *names: str) -> Path | None:
        """The first of these files in the data folder, packed or not, that is there.

        Args:
            names: paths inside the folder, without `.zst`.
        """
        if self.data is None:
            return None
        paths = [self.data / f"{name}{ending}" for name in names for ending in ("", ".zst")]
        return next((path for path in paths if path.is_file()), None)

    def require(self, *names: str) -> Path:
        """The same, for files that must be there.

        Raises:
            DataError: none is.
        """
        path = self.data_file(*names)
        if path is None:
            raise DataError(f"{names[0]} is not in the data folder ({self.data}); name one that has it with --data.")
        return path

    def choose(self, num_items: int, most: int | None = None) -> list[int]:
        """Indices of the items to use, in order: all, or as many as the limit allows, drawn by the seed.

        Args:
            num_items: how many there are.
            most: what the task itself takes at most; None for all. `limit` counts if it is smaller.
        """
        size = min(n for n in (num_items, most, self.limit) if n is not None)
        return sorted(np.random.default_rng((self.seed, num_items)).permutation(num_items)[:size].tolist())


def _at_rest(path: Path) -> Model:
    model = Model.load(path)
    model.close()
    return model
