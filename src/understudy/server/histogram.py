"""Histograms that cost little while they are counted: a request ends often, and somebody looks seldom."""

import bisect
from collections.abc import Iterator, Sequence

from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.utils import floatToGoString

__all__ = ["Histogram"]


class Histogram:
    """How often a figure was how large, for each model, told under one or several names; used in one thread."""

    def __init__(self, names: Sequence[str], what: str, bounds: Sequence[float]) -> None:
        """Start at nothing.

        Args:
            names: that the figures are told under.
            what: what they are, for people.
            bounds: upper ends of the buckets, rising; one without an end follows.
        """
        self._names, self._what, self._bounds = names, what, tuple(bounds)
        self._counts: dict[str, list[int]] = {}
        self._sums: dict[str, float] = {}

    def observe(self, model: str, value: float) -> None:
        """Count a value in."""
        counts = self._counts.get(model)
        if counts is None:
            counts = self._counts[model] = [0] * (len(self._bounds) + 1)
            self._sums[model] = 0.0
        counts[bisect.bisect_left(self._bounds, value)] += 1
        self._sums[model] += value

    def collect(self) -> Iterator[Metric]:
        """The figures; called by the registry."""
        ends = [*map(floatToGoString, self._bounds), "+Inf"]
        for name in self._names:
            family = HistogramMetricFamily(name, self._what, labels=["model_name"])
            for model, counts in self._counts.items():
                below = [sum(counts[: n + 1]) for n in range(len(counts))]
                family.add_metric([model], list(zip(ends, below, strict=True)), self._sums[model])
            yield family
