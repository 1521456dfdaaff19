"""One sequence's keys and values on the GPU, and what is needed to compute them again."""

from collections.abc import Sequence
from typing import Self

from understudy.model.blocks import BlockCache, BlockPool

__all__ = ["GpuCache"]


class GpuCache:
    """Blocks of the GPU's layers and of the CPU's, where both compute; remembers its tokens, for a GPU may get lost.

    Attributes:
        token_ids: (S,) the tokens cached.
        home: the block pools that the blocks belong to.
    """

    def __init__(self, home: Sequence[BlockPool]) -> None:
        """Start empty."""
        self.token_ids: list[int] = []
        self.home = tuple(home)
        self.parts = [BlockCache(pool) for pool in self.home]

    @property
    def length(self) -> int:
        """Number of tokens cached (S)."""
        return len(self.token_ids)

    def truncate(self, length: int) -> None:
        """Forget all tokens from position `length` on.

        Raises:
            ValueError: `length` is negative or more than what is cached.
        """
        for part in self.parts:
            part.truncate(length)
        del self.token_ids[length:]

    def fork(self, length: int) -> Self:
        """Another cache that begins with the first `length` tokens of this one; whole blocks are shared.

        Raises:
            ValueError: `length` is negative or more than what is cached.
        """
        parts = [part.fork(length) for part in self.parts]
        twin = type(self)(self.home)
        twin.parts, twin.token_ids = parts, self.token_ids[:length]
        return twin

    def reserve(self, length: int) -> None:
        """Make room for `length` tokens in all.

        Raises:
            EngineError: no block is free.
        """
        for part in self.parts:
            part.reserve(length)

    def advance(self, token_ids: Sequence[int]) -> None:
        """Count tokens that were written into reserved room."""
        for part in self.parts:
            part.advance(len(token_ids))
        self.token_ids += token_ids

    def settle(self, token_ids: Sequence[int]) -> None:
        """Count tokens whose keys and values came from elsewhere into reserved room."""
        self.advance(token_ids)
