"""Caches of past sequences, kept so that a chat's next turn computes only what is new."""

import dataclasses
from collections.abc import Sequence

from understudy.engine.backend import Cache

__all__ = ["PrefixStore"]


@dataclasses.dataclass(frozen=True)
class _Entry:
    token_ids: tuple[int, ...]
    cache: Cache


class PrefixStore:
    """The last sequences' caches, oldest first; not thread-safe, the model thread owns it.

    A cache has one owner: `take` removes it from the store, `put` hands it back. So a cache that a running
    sequence fills is never seen by another.
    """

    def __init__(self, *, max_sequences: int, max_bytes: int, cache_bytes_per_token: int) -> None:
        """Create an empty store.

        Args:
            max_sequences: at most so many caches.
            max_bytes: at most so many bytes in all caches.
            cache_bytes_per_token: bytes of one cached token.
        """
        self._max_sequences = max_sequences
        self._max_tokens = max_bytes // max(1, cache_bytes_per_token)
        self._entries: list[_Entry] = []

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def num_tokens(self) -> int:
        """Tokens in all kept caches."""
        return sum(len(e.token_ids) for e in self._entries)

    def take(self, token_ids: Sequence[int]) -> Cache | None:
        """Hand out the cache with the longest common beginning, cut to it; None where none is worth it.

        At least the last token of `token_ids` is left to compute, for its logits. A cache of which more would
        be lost than gained stays where it is: it belongs to another conversation.

        Args:
            token_ids: (T,) the new sequence's prompt.
        """
        best: _Entry | None = None
        best_common = 0
        for entry in self._entries:
            common = min(_num_common(entry.token_ids, token_ids), len(token_ids) - 1)
            if common >= best_common and 0 < common >= len(entry.token_ids) - common:
                best, best_common = entry, common
        if best is None:
            return None
        self._entries = [e for e in self._entries if e is not best]
        best.cache.truncate(best_common)
        return best.cache

    def put(self, token_ids: Sequence[int], cache: Cache) -> None:
        """Keep a cache that no sequence uses any more; the oldest ones go when it gets too much.

        Args:
            token_ids: (S,) the tokens in the cache.
            cache: its owner from now on is the store.
        """
        assert len(token_ids) == cache.length
        kept = tuple(token_ids)
        if not kept or len(kept) > self._max_tokens:
            return
        # A beginning of the new sequence can serve nothing that the new one does not serve as well.
        self._entries = [e for e in self._entries if e.token_ids != kept[: len(e.token_ids)]]
        self._entries.append(_Entry(kept, cache))
        while len(self._entries) > self._max_sequences or self.num_tokens > self._max_tokens:
            del self._entries[0]


def _num_common(first: Sequence[int], second: Sequence[int]) -> int:
    for place, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return place
    return min(len(first), len(second))
