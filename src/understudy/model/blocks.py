"""The KV cache's blocks: who owns which, and caches made of them."""

import threading
import weakref
from collections.abc import Callable, Sequence

from understudy.errors import EngineError

__all__ = ["BlockCache", "BlockPool"]


class BlockPool:
    """Hands out numbered blocks of a fixed number of tokens; a block may have several owners.

    Safe from any thread: a cache that is garbage gives its blocks back from wherever the collector runs.
    """

    def __init__(self, num_blocks: int, block_tokens: int, copy_block: Callable[[int, int], None]) -> None:
        """Start with all blocks free.

        Args:
            num_blocks: blocks in all.
            block_tokens: tokens that a block holds.
            copy_block: copies the first block's content to the second.
        """
        self.block_tokens = block_tokens
        self.copy_block = copy_block
        self._owners = [0] * num_blocks
        self._free = list(range(num_blocks - 1, -1, -1))
        self._lock = threading.RLock()

    @property
    def num_blocks(self) -> int:
        """Blocks in all."""
        return len(self._owners)

    @property
    def num_free(self) -> int:
        """Blocks that nobody owns."""
        return len(self._free)

    def take(self) -> int:
        """A free block.

        Raises:
            EngineError: all are owned.
        """
        with self._lock:
            if not self._free:
                raise EngineError(
                    f"The KV cache is full: all {self.num_blocks * self.block_tokens} tokens of its memory budget are "
                    "in use; send fewer or shorter requests at once, or give the cache more memory."
                )
            block = self._free.pop()
            assert self._owners[block] == 0
            self._owners[block] = 1
            return block

    def share(self, blocks: list[int]) -> None:
        """Add an owner to each block."""
        with self._lock:
            assert all(self._owners[block] > 0 for block in blocks)
            for block in blocks:
                self._owners[block] += 1

    def give_back(self, blocks: list[int]) -> None:
        """Take an owner from each block; those without any are free again."""
        with self._lock:
            for block in blocks:
                assert self._owners[block] > 0
                self._owners[block] -= 1
                if not self._owners[block]:
                    self._free.append(block)

    def num_owners(self, block: int) -> int:
        """How many caches hold a block."""
        return self._owners[block]


class BlockCache:
    """One sequence's keys and values, in blocks of a pool; what several caches share is never written.

    Attributes:
        pool: where the blocks come from.
        blocks: those in use, in order.
        length: number of tokens cached (S).
    """

    def __init__(self, pool: BlockPool) -> None:
        self.pool = pool
        self.blocks: list[int] = []
        self.length = 0
        weakref.finalize(self, _release, pool, self.blocks)

    def truncate(self, length: int) -> None:
        """Forget all tokens from position `length` on.

        Raises:
            ValueError: `length` is negative or more than what is cached.
        """
        if not 0 <= length <= self.length:
            raise ValueError(f"A cache of {self.length} tokens cannot be cut to {length}.")
        self.length = length
        kept = -(-length // self.pool.block_tokens)
        dropped = self.blocks[kept:]
        del self.blocks[kept:]
        self.pool.give_back(dropped)

    def fork(self, length: int) -> "BlockCache":
        """Another cache that begins with the first `length` tokens of this one; whole blocks are shared.

        Raises:
            ValueError: `length` is negative or more than what is cached.
        """
        if not 0 <= length <= self.length:
            raise ValueError(f"A cache of {self.length} tokens has no beginning of {length}.")
        twin = BlockCache(self.pool)
        shared = self.blocks[: -(-length // self.pool.block_tokens)]
        self.pool.share(shared)
        twin.blocks += shared
        twin.length = length
        return twin

    def reserve(self, length: int) -> None:
        """Make room for `length` tokens in all; the block that will be written next becomes this cache's own.

        Raises:
            EngineError: the pool has no free block left; the cache is as it was.
        """
        size = self.pool.block_tokens
        if self.length % size and length > self.length:
            last = self.length // size
            if self.pool.num_owners(self.blocks[last]) > 1:
                own = self.pool.take()
                self.pool.copy_block(self.blocks[last], own)
                self.pool.give_back([self.blocks[last]])
                self.blocks[last] = own
        before = len(self.blocks)
        try:
            while len(self.blocks) * size < length:
                self.blocks.append(self.pool.take())
        except EngineError:
            self.pool.give_back(self.blocks[before:])
            del self.blocks[before:]
            raise

    def advance(self, num_tokens: int) -> None:
        """Count tokens that were written into reserved room."""
        self.length += num_tokens
        assert self.length <= len(self.blocks) * self.pool.block_tokens

    def settle(self, token_ids: Sequence[int]) -> None:
        """Count tokens whose keys and values came from elsewhere into reserved room."""
        self.advance(len(token_ids))


def _release(pool: BlockPool, blocks: list[int]) -> None:
    pool.give_back(blocks)
    blocks.clear()
