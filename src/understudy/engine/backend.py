"""What an engine needs of whatever computes the model."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt

from understudy.model.config import NemotronConfig
from understudy.model.memory import MemoryFigures

__all__ = ["Backend", "Cache", "Flight", "LaunchingBackend", "MemoryFigures", "Step"]


class Cache(Protocol):
    """Keys and values of one sequence; owned by its backend, filled by `Backend.forward`."""

    @property
    def length(self) -> int:
        """Number of tokens cached (S)."""
        ...

    def truncate(self, length: int) -> None:
        """Forget all tokens from position `length` on."""
        ...

    def fork(self, length: int) -> Self:
        """Another cache that begins with this one's first `length` tokens; both go their own way from there."""
        ...


@dataclasses.dataclass(frozen=True)
class Step:
    """Work for one sequence in one forward pass.

    Attributes:
        cache: the sequence's cache; grows by `len(token_ids)`.
        token_ids: (T,) new tokens, T >= 1.
        num_logits: logits are wanted for the last so many positions, 0..T.
    """

    cache: Cache
    token_ids: Sequence[int]
    num_logits: int = 1


class Backend(Protocol):
    """A loaded model. Not thread-safe: the engine's one model thread calls it."""

    @property
    def name(self) -> str:
        """Short name for logs and `understudy doctor`, e.g. 'reference'."""
        ...

    @property
    def config(self) -> NemotronConfig:
        """Shape of the loaded model."""
        ...

    def new_cache(self) -> Cache:
        """An empty cache for one sequence."""
        ...

    def forward(self, batch: Sequence[Step]) -> list[npt.NDArray[np.float32]]:
        """Run one step; for each sequence logits of shape (num_logits, V)."""
        ...

    def num_free_tokens(self) -> int | None:
        """Tokens that all caches together may still grow by; None where only the machine's memory ends it.

        A cache may take up to a block of `block_tokens` more than it needs.
        """
        ...

    @property
    def draft_tokens(self) -> int:
        """Longest draft whose tokens cost little beside the one that a step computes anyway; 0 for none."""
        ...

    @property
    def block_tokens(self) -> int:
        """Tokens by which a cache grows."""
        ...

    def memory(self) -> MemoryFigures:
        """Bytes held now."""
        ...


class Flight(Protocol):
    """A forward pass under way; until it ended nobody may truncate or drop the caches that it writes."""

    def land(self) -> list[npt.NDArray[np.float32]]:
        """Wait for its end; logits as of `Backend.forward`. Called once."""
        ...

    def settle(self) -> None:
        """Wait for its end and let go of what it computed; never raises."""
        ...


@runtime_checkable
class LaunchingBackend(Backend, Protocol):
    """A backend that computes while its caller is busy with something else."""

    def launch(self, batch: Sequence[Step]) -> Flight:
        """Like `forward`, but returns at once; several passes, of different sequences, are computed in their order."""
        ...
