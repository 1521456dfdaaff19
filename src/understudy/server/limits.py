"""What one key may take: so many requests a minute, so many answers at a time."""

import math
import time
from collections.abc import Callable

from understudy.server.keys import ApiKey
from understudy.server.problem import Problem

__all__ = ["Limits"]


class Limits:
    """Counts what each key takes; only the event loop's thread calls it.

    The rate is a bucket that holds a minute's requests and is filled evenly, so that a burst after a pause is served.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with full buckets.

        Args:
            clock: seconds, growing.
        """
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}  # requests left, and when that was so
        self._num_running: dict[str, int] = {}

    def take(self, key: ApiKey, *, is_answer: bool) -> None:
        """Count a request in.

        Args:
            key: whose it is.
            is_answer: the model works for it; `give_back` must follow when that ends.

        Raises:
            Problem: 429, with the seconds to wait.
        """
        num_running = self._num_running.get(key.name, 0)
        if is_answer and key.max_concurrent is not None and num_running >= key.max_concurrent:
            raise _too_many(f"The key {key.name!r} has {num_running} answers under way, its limit", 1)
        self._draw(key)
        if is_answer:
            self._num_running[key.name] = num_running + 1

    def give_back(self, key: ApiKey) -> None:
        """Count an answer out."""
        self._num_running[key.name] -= 1

    def _draw(self, key: ApiKey) -> None:
        rate = key.requests_per_minute
        if rate is None:
            return
        now = self._clock()
        left, then = self._buckets.get(key.name, (float(rate), now))
        left = min(rate, left + (now - then) * rate / 60)
        if left < 1:
            self._buckets[key.name] = (left, now)
            raise _too_many(f"The key {key.name!r} has sent its {rate} requests a minute", (1 - left) * 60 / rate)
        self._buckets[key.name] = (left - 1, now)


def _too_many(what: str, wait_s: float) -> Problem:
    seconds = max(1, math.ceil(wait_s))
    return Problem(
        429,
        f"{what}; send it again in {seconds} s.",
        type="rate_limit_error",
        code="rate_limit_exceeded",
        headers={"retry-after": str(seconds)},
    )
