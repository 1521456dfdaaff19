"""What everybody asks of an engine, whether it runs in this process or in one of its own."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from understudy.engine.generation import Generation
from understudy.engine.paging import KvLayout, KvPages
from understudy.engine.request import GenerationRequest
from understudy.errors import UnderstudyError
from understudy.model.config import NemotronConfig
from understudy.model.memory import MemoryFigures

__all__ = ["AnyEngine", "EngineFacts", "EngineOptions", "EngineStats"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Limits of the engine.

    Attributes:
        max_running: sequences in one forward pass; further requests wait.
        prefill_tokens: prompt tokens in one forward pass, all sequences together; bounds how long a running
            answer is held up by another's long prompt.
        prefix_sequences: caches of past sequences that are kept.
        prefix_bytes: bytes that these take at most, were none shared; the backend's own budget counts what is.
        owner_tokens_per_s: tokens that all requests of one owner may draw a second; None for no limit.
        overlaps: compute half of the batch while the other half's tokens are drawn, where the backend can; same text.
        use_drafts: let sequences draft by prompt lookup where the backend says that it pays; same text, fewer steps.

    Raises:
        ValueError: a limit is too small.
    """

    max_running: int = 32
    prefill_tokens: int = 256
    prefix_sequences: int = 64
    prefix_bytes: int = 1 << 30
    use_drafts: bool = True
    overlaps: bool = True
    owner_tokens_per_s: float | None = None

    def __post_init__(self) -> None:
        if self.max_running < 1 or self.prefill_tokens < 1 or self.prefix_sequences < 0 or self.prefix_bytes < 0:
            raise ValueError(f"max_running and prefill_tokens start at 1, the prefix limits at 0: got {self}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineStats:
    """What the engine does now, and totals since its start.

    Attributes:
        num_running: sequences in the running batch.
        num_waiting: requests that wait for a place in it.
        prompt_tokens: of all requests that were started.
        cached_tokens: of these, tokens that a past sequence's cache held.
        prefilled_tokens: of prompts, that the model read; those of warm-ups count too.
        generated_tokens: tokens drawn.
        cache_usage: share of the KV cache that is in use, kept beginnings included; None where it has no bound.
    """

    num_running: int = 0
    num_waiting: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    prefilled_tokens: int = 0
    generated_tokens: int = 0
    cache_usage: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineFacts:
    """What computes an engine's model.

    Attributes:
        backend: its name.
        memory: what it holds.
        kv: how it keeps keys and values; None where it gives none out.
    """

    backend: str
    memory: MemoryFigures
    kv: KvLayout | None


class AnyEngine(Protocol):
    """`Engine`, or `RemoteEngine`: safe to call from any thread. `Engine`'s methods say what each does."""

    on_done: Callable[[Generation], Any] | None

    @property
    def config(self) -> NemotronConfig:
        """Shape of the model."""
        ...

    @property
    def options(self) -> EngineOptions:
        """Limits."""
        ...

    @property
    def facts(self) -> EngineFacts:
        """What computes the model."""
        ...

    @property
    def absence(self) -> UnderstudyError | None:
        """Why it takes no requests now; None where it does."""
        ...

    def submit(self, request: GenerationRequest) -> Generation:
        """Queue a request; returns at once."""
        ...

    def warm(self, prompt_ids: Sequence[int], *, priority: int = -1, owner: str | None = None) -> Generation:
        """Read a beginning before anybody waits for it."""
        ...

    def embed(
        self, texts: Sequence[Sequence[int]], *, is_cancelled: Callable[[], bool] = lambda: False
    ) -> npt.NDArray[np.float32]:
        """Texts as vectors (B, D)."""
        ...

    def export_prefix(
        self, token_ids: Sequence[int], *, start: int = 0, max_bytes: int | None = None
    ) -> KvPages | None:
        """Copy the keys and values of a beginning."""
        ...

    def import_prefix(self, kept: KvPages) -> int:
        """Put exported pages back."""
        ...

    def stats(self) -> EngineStats:
        """Figures of this moment."""
        ...

    def close(self) -> None:
        """Fail what is in flight."""
        ...
