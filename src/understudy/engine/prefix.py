"""Beginnings of sequences that were computed already, so that no persona is read twice."""

import dataclasses
from collections.abc import Sequence

from understudy.engine.backend import Cache

__all__ = ["PrefixStore", "num_common"]

_STRETCH = 32  # tokens that are compared together


@dataclasses.dataclass(frozen=True, eq=False)
class _Entry:
    token_ids: tuple[int, ...]
    cache: Cache


class _Node:
    """A stretch of tokens that all sequences below it share; the root's is empty."""

    def __init__(self, token_ids: tuple[int, ...]) -> None:
        self.token_ids = token_ids
        self.children: dict[int, _Node] = {}  # by first token
        self.entries: dict[_Entry, None] = {}  # all below, the latest last
        self.last: _Entry | None = None  # the one that ends here


class PrefixStore:
    """Caches of past sequences as a tree of tokens; not thread-safe, the model thread owns it.

    A kept cache is never written: a request that begins like it gets a fork. Where the backend shares blocks between
    forks, as the compiled one does, a thousand characters of one world hold its common beginning once. Finding the
    longest beginning takes time by the prompt's length, not by how much is kept.
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
        self._entries: dict[Cache, _Entry] = {}  # least recently used first
        self._root = _Node(())
        self._num_tokens = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def num_tokens(self) -> int:
        """Tokens in all kept caches."""
        return self._num_tokens

    def caches(self) -> list[Cache]:
        """All kept caches, least recently used first."""
        return list(self._entries)

    def longest(self, token_ids: Sequence[int]) -> tuple[int, Cache | None]:
        """The cache that shares the longest beginning with a prompt, and how long that is.

        At least the last token of the prompt is left to compute, for its logits.
        """
        prompt, node, length = tuple(token_ids[:-1]), self._root, 0
        while (child := node.children.get(prompt[length]) if length < len(prompt) else None) is not None:
            common = num_common(child.token_ids, prompt[length : length + len(child.token_ids)])
            node, length = child, length + common
            if common < len(child.token_ids):
                break
        return (length, next(reversed(node.entries)).cache) if length else (0, None)

    def touch(self, cache: Cache) -> None:
        """Count a cache as just used, so that it goes last."""
        if entry := self._entries.pop(cache, None):
            self._entries[cache] = entry

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
        entry = _Entry(kept, cache)
        for shorter in self._insert(entry):
            self._remove(shorter)
        self._entries[cache] = entry
        self._num_tokens += len(kept)
        while len(self._entries) > self._max_sequences or self._num_tokens > self._max_tokens:
            self.drop_oldest()

    def drop_oldest(self) -> bool:
        """Forget the cache that was unused for longest; False if there is none."""
        if not self._entries:
            return False
        self._remove(next(iter(self._entries.values())))
        return True

    def _insert(self, entry: _Entry) -> list[_Entry]:
        """Add a sequence to the tree; returns those that are a beginning of it, and so can serve nothing more."""
        node, at = self._root, 0
        beginnings: list[_Entry] = []
        node.entries[entry] = None
        while at < len(entry.token_ids):
            child = node.children.get(entry.token_ids[at])
            if child is None:
                child = node.children[entry.token_ids[at]] = _Node(entry.token_ids[at:])
            common = num_common(child.token_ids, entry.token_ids[at : at + len(child.token_ids)])
            if common < len(child.token_ids):
                child = node.children[entry.token_ids[at]] = _split(child, common)
            node, at = child, at + common
            if node.last is not None:
                beginnings.append(node.last)
            node.entries[entry] = None
        node.last = entry
        return beginnings

    def _remove(self, entry: _Entry) -> None:
        node, at = self._root, 0
        del node.entries[entry]
        while at < len(entry.token_ids):
            child = node.children[entry.token_ids[at]]
            del child.entries[entry]
            at += len(child.token_ids)
            if not child.entries:
                del node.children[child.token_ids[0]]
            node = child
        if node.last is entry:
            node.last = None
        del self._entries[entry.cache]
        self._num_tokens -= len(entry.token_ids)


def _split(node: _Node, length: int) -> _Node:
    """A node of the first tokens, above what is left of the old one."""
    upper = _Node(node.token_ids[:length])
    upper.entries = dict(node.entries)
    node.token_ids = node.token_ids[length:]
    upper.children[node.token_ids[0]] = node
    return upper


def num_common(first: tuple[int, ...], second: tuple[int, ...]) -> int:
    """Tokens that two beginnings have in common."""
    size = min(len(first), len(second))
    place = 0
    while place < size and first[place : place + _STRETCH] == second[place : place + _STRETCH]:
        place += _STRETCH
    while place < size and first[place] == second[place]:
        place += 1
    return min(place, size)
