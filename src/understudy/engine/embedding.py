"""Texts as vectors: the mean of what the head would read, over a text's tokens."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from understudy.engine.backend import Backend, Cache, Step
from understudy.engine.prefix import PrefixStore
from understudy.errors import ContextLengthError, EngineError, RequestError
from understudy.model.config import NemotronConfig

__all__ = ["HiddenBackend", "check_texts", "mean_hidden_states"]


@runtime_checkable
class HiddenBackend(Backend, Protocol):
    """A backend that gives the last norm's output, too."""

    def hidden_states(self, batch: Sequence[Step]) -> list[npt.NDArray[np.float32]]:
        """Run one step; for each sequence (T, D), for all of its new tokens."""
        ...


@dataclasses.dataclass
class _Text:
    """A text while it is read."""

    index: int
    token_ids: Sequence[int]
    cache: Cache


def mean_hidden_states(
    backend: Backend,
    prefixes: PrefixStore,
    texts: Sequence[Sequence[int]],
    *,
    call: Callable[[Callable[[], Any]], Any],
    step_tokens: int,
    is_cancelled: Callable[[], bool],
) -> npt.NDArray[np.float32]:
    """Read texts in steps, between which others' steps have their turn; see `Engine.embed`.

    Args:
        backend: computes the model.
        prefixes: past sequences, which give way where the cache is full.
        texts: (B, T) token ids.
        call: runs a function on the model thread and returns its result.
        step_tokens: most tokens of one step.
        is_cancelled: asked between steps; true ends the work with what there is.
    """
    if not isinstance(backend, HiddenBackend):
        raise EngineError(f"The {backend.name} backend gives no hidden states; embed with the cpu backend.")
    check_texts(texts, backend.config)
    sums = np.zeros((len(texts), backend.config.hidden_size))
    waiting = [(index, ids) for index, ids in enumerate(texts)][::-1]
    reading: list[_Text] = []

    def step() -> None:
        budget = step_tokens
        batch: list[tuple[_Text, Step]] = []
        while budget and (len(batch) < len(reading) or waiting):
            if len(batch) == len(reading):
                reading.append(_Text(*waiting.pop(), backend.new_cache()))
            text = reading[len(batch)]
            ids = text.token_ids[text.cache.length : text.cache.length + budget]
            budget -= len(ids)
            batch.append((text, Step(text.cache, ids, num_logits=0)))
        _make_room(backend, prefixes, [work for _, work in batch])
        for (text, _), rows in zip(batch, backend.hidden_states([work for _, work in batch]), strict=True):
            sums[text.index] += rows.sum(axis=0, dtype=np.float64)
        reading[:] = [text for text in reading if text.cache.length < len(text.token_ids)]

    while (waiting or reading) and not is_cancelled():
        call(step)
    means = sums / np.array([[len(ids)] for ids in texts])
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    vectors: npt.NDArray[np.float32] = (means / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return vectors


def check_texts(texts: Sequence[Sequence[int]], config: NemotronConfig) -> None:
    """Refuse what a model has no room or no row for.

    Raises:
        ContextLengthError: a text is longer than its context.
        RequestError: a text is empty, or a token id is not in its vocabulary.
    """
    limit = config.max_position_embeddings
    for ids in texts:
        if len(ids) > limit:
            raise ContextLengthError(len(ids), limit)
        if not ids or not 0 <= min(ids) <= max(ids) < config.vocab_size:
            raise RequestError(
                f"input: a text needs at least one token, and ids from 0 to {config.vocab_size - 1}.", param="input"
            )


def _make_room(backend: Backend, prefixes: PrefixStore, steps: Sequence[Step]) -> None:
    needed = sum(len(step.token_ids) + backend.block_tokens for step in steps)
    while (free := backend.num_free_tokens()) is not None and free < needed:
        if not prefixes.drop_oldest():
            raise EngineError("The KV cache's memory is all in use by other requests; send the request again later.")
