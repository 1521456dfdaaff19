"""Keys and values of one sequence."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from understudy.model.config import NemotronConfig

__all__ = ["KvCache"]

_CHUNK = 256


class KvCache:
    """Keys and values of every layer for one sequence; memory grows in chunks of 256 tokens.

    Attributes:
        length: number of tokens whose keys and values are complete (S).
        keys: (layers, K, capacity, H) float32; positions from `length` on are garbage.
        values: like `keys`.
    """

    def __init__(self, config: NemotronConfig) -> None:
        self.length = 0
        shape = (config.num_hidden_layers, config.num_key_value_heads, 0, config.head_dim)
        self.keys: npt.NDArray[np.float32] = np.empty(shape, np.float32)
        self.values: npt.NDArray[np.float32] = np.empty(shape, np.float32)

    def truncate(self, length: int) -> None:
        """Forget all tokens from position `length` on.

        Raises:
            ValueError: `length` is negative or more than what is cached.
        """
        if not 0 <= length <= self.length:
            raise ValueError(f"A cache of {self.length} tokens cannot be cut to {length}.")
        self.length = length

    def fork(self, length: int) -> "KvCache":
        """A copy of the first `length` tokens.

        Raises:
            ValueError: `length` is negative or more than what is cached.
        """
        if not 0 <= length <= self.length:
            raise ValueError(f"A cache of {self.length} tokens has no beginning of {length}.")
        twin = KvCache.__new__(KvCache)
        twin.length = length
        twin.keys, twin.values = self.keys[:, :, :length].copy(), self.values[:, :, :length].copy()
        return twin

    def reserve(self, length: int) -> None:
        """Make room for `length` tokens in all."""
        capacity = self.keys.shape[2]
        if length > capacity:
            wanted = max(length, capacity + capacity // 2)
            wanted = -(-wanted // _CHUNK) * _CHUNK
            self.keys, self.values = (self._grown(a, wanted) for a in (self.keys, self.values))

    def advance(self, num_tokens: int) -> None:
        """Count tokens that were written into reserved room."""
        self.length += num_tokens
        assert self.length <= self.keys.shape[2]

    def settle(self, token_ids: Sequence[int]) -> None:
        """Count tokens whose keys and values came from elsewhere into reserved room."""
        self.advance(len(token_ids))

    def _grown(self, old: npt.NDArray[np.float32], capacity: int) -> npt.NDArray[np.float32]:
        layers, heads, _, size = old.shape
        new = np.empty((layers, heads, capacity, size), np.float32)
        new[:, :, : self.length] = old[:, :, : self.length]
        return new
