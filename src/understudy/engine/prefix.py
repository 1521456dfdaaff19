"""Beginnings of sequences that were computed already, so that no persona is read twice."""

import dataclasses
from collections.abc import Iterable, Sequence

from understudy.engine.backend import Cache

__all__ = ["PrefixStore", "longest_beginning"]


@dataclasses.dataclass(frozen=True, eq=False)
class _Entry:
    token_ids: tuple[int, ...]
    cache: Cache


def longest_beginning(
    candidates: Iterable[tuple[Sequence[int], Cache]], token_ids: Sequence[int]
) -> tuple[int, Cache | None]:
    """The cache that shares the longest beginning with a prompt, and how long that is.

    At least the last token of the prompt is left to compute, for its logits.

    Args:
        candidates: token ids (S,) of caches, and the caches.
        token_ids: (T,) the prompt.
    """
    best: tuple[int, Cache | None] = 0, None
    for cached_ids, cache in candidates:
        if (common := min(_num_common(cached_ids, token_ids), len(token_ids) - 1)) > best[0]:
            best = common, cache
    return best


class PrefixStore:
    """Caches of past sequences, least recently used first; not thread-safe, the model thread owns it.

    A kept cache is never written: a request that begins like it gets a fork. Where the backend shares blocks between
    forks, as the compiled one does, a thousand characters of one world hold its common beginning once.
    """

    def __init__(self, *, max_sequences: int, max_bytes: int, cache_bytes_per_token: int) -> None:
        """Create an empty store.

        Args:
            max_sequences: at most so many caches.
            max_bytes: at most so many bytes in all caches, as if none shared anything.
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

    def candidates(self) -> list[tuple[Sequence[int], Cache]]:
        """All kept caches, for `longest_beginning`."""
        return [(entry.token_ids, entry.cache) for entry in self._entries]

    def touch(self, cache: Cache) -> None:
        """Count a cache as just used, so that it goes last."""
        self._entries.sort(key=lambda entry: entry.cache is cache)

    def put(self, token_ids: Sequence[int], cache: Cache) -> None:
        """Keep a cache that no sequence uses any more; the longest unused ones go when it gets too much.

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
            self.drop_oldest()

    def drop_oldest(self) -> bool:
        """Forget the cache that was unused for longest; False if there is none."""
        if not self._entries:
            return False
        del self._entries[0]
        return True


def _num_common(first: Sequence[int], second: Sequence[int]) -> int:
    for place, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return place
    return min(len(first), len(second))
