"""Tokens that each owner may draw a second."""

import time
from collections.abc import Callable

__all__ = ["Quota"]


class Quota:
    """A token bucket an owner: it fills at a rate, holds at most a second's worth, and may run into debt by a step."""

    def __init__(self, tokens_per_s: float | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with full buckets.

        Args:
            tokens_per_s: of each owner; None for no limit.
            clock: seconds, growing.
        """
        self._rate = tokens_per_s
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}

    def may_draw(self, owner: str | None) -> bool:
        """Whether an owner has something left; requests without an owner always may."""
        return self._rate is None or owner is None or self._level(owner) > 0

    def draw(self, owner: str | None, num_tokens: int) -> None:
        """Take tokens from an owner's bucket."""
        if self._rate is not None and owner is not None and num_tokens:
            self._buckets[owner] = (self._level(owner) - num_tokens, self._clock())

    def _level(self, owner: str) -> float:
        assert self._rate is not None
        full = max(1.0, self._rate)
        level, since = self._buckets.get(owner, (full, self._clock()))
        return min(full, level + (self._clock() - since) * self._rate)
