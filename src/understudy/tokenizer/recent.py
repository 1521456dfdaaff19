"""Ids of texts that were encoded lately: personas, lore and the lines of a conversation come again with every turn."""

import threading

__all__ = ["RecentTexts"]


class RecentTexts:
    """Texts and their ids, the latest kept; safe from any thread."""

    def __init__(self, max_chars: int) -> None:
        """Start empty.

        Args:
            max_chars: of all kept texts together; those unused for longest go when it gets more.
        """
        self._max_chars = max_chars
        self._num_chars = 0
        self._kept: dict[str, tuple[int, ...]] = {}  # least recently used first
        self._lock = threading.Lock()

    def get(self, text: str) -> tuple[int, ...] | None:
        """A text's ids, if it is kept."""
        with self._lock:
            ids = self._kept.pop(text, None)
            if ids is not None:
                self._kept[text] = ids
            return ids

    def put(self, text: str, ids: tuple[int, ...]) -> None:
        """Keep a text; one that would take a quarter of the room is not worth it."""
        if 4 * len(text) > self._max_chars:
            return
        with self._lock:
            if text not in self._kept:
                self._num_chars += len(text)
            self._kept[text] = ids
            while self._num_chars > self._max_chars:
                oldest = next(iter(self._kept))
                del self._kept[oldest]
                self._num_chars -= len(oldest)
