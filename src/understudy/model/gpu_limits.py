"""What a game allows a model on its GPU, and how a pass is cut to keep to it."""

import dataclasses
import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["GpuLimits", "Pace", "PassCosts"]

_FRAME_MS = 1000 / 60
_FIRST_RATE = 20e9  # bytes a second: a slow GPU's, until the first passes were timed
_DISPATCH_BYTES = 100_000  # what starting a kernel costs, in bytes read
_MEASURE_EVERY = 16  # passes


@dataclasses.dataclass(frozen=True, kw_only=True)
class GpuLimits:
    """Limits of the wgpu backend.

    Attributes:
        memory_bytes: cap of all that is allocated; None for what the GPU has.
        submission_ms: longest time that work handed over in one piece may hold the GPU; one kernel is never cut.
        frame_ms: GPU milliseconds in a frame of 1/60 s; None for all of them.
        tokens_per_s: read and written, all sequences together; None for no limit.

    Raises:
        ValueError: a limit is not above 0.
    """

    memory_bytes: int | None = None
    submission_ms: float = 4.0
    frame_ms: float | None = None
    tokens_per_s: float | None = None

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be above 0, got {value!r}.")


class PassCosts:
    """What the dispatches of a pass cost, in bytes read; made once for a pass that comes again and again.

    Attributes:
        total: of all.
        whole: all of them.
        sums: of each and those before.
    """

    def __init__(self, num_bytes: Sequence[int] | npt.NDArray[np.int64]) -> None:
        """Add up.

        Args:
            num_bytes: that each dispatch reads of weights.
        """
        self.sums = np.cumsum(np.asarray(num_bytes, np.float64) + _DISPATCH_BYTES)
        self.total = float(self.sums[-1])
        self.whole = slice(0, len(self.sums))

    def of(self, part: slice) -> float:
        """Costs of a stretch."""
        return float(self.sums[part.stop - 1] - (self.sums[part.start - 1] if part.start else 0.0))


class Pace:
    """Cuts passes by what they will probably take, learns from what they took, and rests in between."""

    def __init__(
        self,
        limits: GpuLimits,
        *,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Start without having measured anything.

        Args:
            limits: what is allowed.
            clock: seconds.
            sleep: waits so many.
        """
        self._limits, self._clock, self._sleep = limits, clock, sleep
        self._rate = _FIRST_RATE
        self._num_passes = 0
        self._next_token_at = 0.0

    def cut(self, costs: PassCosts) -> list[slice]:
        """Stretches of dispatches, each one submission."""
        most = self._limits.submission_ms / 1000 * self._rate
        if costs.total <= most:
            return [costs.whole]
        sums = costs.sums
        parts, start, done = [], 0, 0.0
        while costs.total - done > most and start < len(sums) - 1:
            stop = max(start + 1, int(np.searchsorted(sums, done + most, side="right")))
            parts.append(slice(start, stop))
            start, done = stop, sums[stop - 1]
        return [*parts, slice(start, len(sums))]

    def run(self, costs: PassCosts, submit: Callable[[slice], None], wait: Callable[[], None]) -> int:
        """Submit a pass piece by piece, as the limits ask; returns the number of submissions.

        Where all of the GPU may be used, the last piece is not waited for, and a pass in one piece now and then only,
        to see whether the GPU became slower.

        Args:
            costs: of its dispatches.
            submit: hands a stretch over.
            wait: returns when all is done.
        """
        parts = self.cut(costs)
        share = None if self._limits.frame_ms is None else min(1.0, self._limits.frame_ms / _FRAME_MS)
        self._num_passes += 1
        if len(parts) == 1 and share is None and self._num_passes % _MEASURE_EVERY:
            submit(parts[0])
            return 1
        for number, part in enumerate(parts, 1):
            began = self._clock()
            submit(part)
            if share is None and number == len(parts) > 1:
                break
            wait()
            took = self._clock() - began
            self._rate += 0.2 * (costs.of(part) / max(took, 1e-6) - self._rate)
            if share is not None and share < 1:
                self._sleep(took * (1 / share - 1))
        return len(parts)

    def hold_back(self, num_tokens: int) -> None:
        """Wait until so many more tokens are allowed."""
        if self._limits.tokens_per_s is None:
            return
        now = self._clock()
        if self._next_token_at > now:
            self._sleep(self._next_token_at - now)
        self._next_token_at = max(now, self._next_token_at) + num_tokens / self._limits.tokens_per_s
