"""What an evaluation task is, and what it answers."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

from understudy.errors import DataError
from understudy.evaluation.subject import Subject

__all__ = ["Better", "Figure", "Outcome", "Progress", "Task"]

Better = Literal["higher", "lower", ""]
Progress = Callable[[int, int], None]
"""Told how many of how many items are done."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure of a report.

    Attributes:
        name: unique within a report, e.g. "npc.rag".
        label: what tables call it.
        value: finite.
        unit: "share" (0 to 1), "bits/byte", "nats", "tokens/s", "bytes", "bits", "s", or "" for a bare number.
        better: which way is better; "" where neither is.
        count: items that it is over (turns, questions, windows, tokens); None where nothing is counted.
        low: lower end of the 95 % interval, if there is one.
        high: upper end of it.
        is_detail: in the JSON report only, not in tables.

    Raises:
        DataError: the value is not finite: the model's output is broken.
    """

    name: str
    label: str
    value: float
    unit: str = ""
    better: Better = ""
    count: int | None = None
    low: float | None = None
    high: float | None = None
    is_detail: bool = False

    def __post_init__(self) -> None:
        if not all(math.isfinite(v) for v in (self.value, self.low or 0.0, self.high or 0.0)):
            raise DataError(
                f"The figure {self.name} is {self.value}, no finite number; the model's weights are damaged or "
                "diverged: evaluate an earlier checkpoint."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a task found.

    Attributes:
        figures: in the order of tables.
        settings: what else decides the figures, e.g. the number of windows and their length.
        files: what it wrote (transcripts), as paths inside the output folder.
    """

    figures: tuple[Figure, ...]
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    files: tuple[str, ...] = ()


class Task(Protocol):
    """One measurement of a model; stateless, so one object serves all runs."""

    @property
    def name(self) -> str:
        """What `--tasks` and reports call it."""
        ...

    @property
    def method(self) -> str:
        """A sentence on how it measures, for reports and cards."""
        ...

    @property
    def version(self) -> int:
        """Goes up when the same model would get other figures; finished results of another version are not reused."""
        ...

    @property
    def needs(self) -> tuple[tuple[str, ...], ...]:
        """Files of the data folder that it reads, without `.zst`, each with its other places; hashed in reports."""
        ...

    @property
    def needs_parent(self) -> bool:
        """Whether it compares the model with its parent."""
        ...

    def lacks(self, subject: Subject) -> str | None:
        """Why else the task cannot be run on this subject, as a sentence; None if it can."""
        ...

    def run(self, subject: Subject, progress: Progress) -> Outcome:
        """Measure.

        Raises:
            UnderstudyError: the data are damaged, or the engine failed.
        """
        ...
