"""Runs stages in their order, skipping what is done."""

import dataclasses
import errno
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from understudy.errors import DataError, UnderstudyError
from understudy.pipeline.stage import Estimate, Stage, StageContext, prepare, seal, stage_state

__all__ = ["Planned", "Watcher", "plan", "run_stages"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Planned:
    """A stage and what is to become of it.

    Attributes:
        state: "done", "begun" or "to do".
        estimate: None for what is done.
    """

    stage: Stage
    state: str
    estimate: Estimate | None


class Watcher(Protocol):
    """Where a run tells how it goes."""

    def begin(self, stage: Stage, state: str, number: int, count: int) -> None:
        """A stage begins, goes on, or is skipped."""
        ...

    def progress(self, done: int, total: int, detail: str) -> None:
        """How far the stage is."""
        ...

    def report(self, line: str) -> None:
        """A line for the log."""
        ...


def plan(stages: Sequence[Stage], root: Path) -> Iterator[Planned]:
    """Tell what a run would do; after the first stage that is not done, none can be."""
    stale = False
    for stage in stages:
        state = "to do" if stale else stage_state(stage, root).state
        stale = stale or state != "done"
        yield Planned(stage=stage, state=state, estimate=None if state == "done" else stage.estimate(root))


def run_stages(stages: Sequence[Stage], root: Path, watcher: Watcher, *, until: str | None = None) -> None:
    """Run what is not done yet.

    Args:
        stages: in an order in which each finds what it needs.
        root: the run's folder.
        watcher: is told how it goes.
        until: name of the last stage to run; all by default.

    Raises:
        UnderstudyError: a stage cannot go on; what was done stays, and the next run goes on from there.
    """
    names = [stage.name for stage in stages]
    if until is not None and until not in names:
        raise DataError(f"There is no stage {until!r}; this recipe has {', '.join(names)}.")
    _make(root)
    for number, stage in enumerate(stages, 1):
        state = stage_state(stage, root)
        watcher.begin(stage, state.state, number, len(stages))
        if state.state != "done":
            _run(stage, root, state.fingerprint, watcher.report, watcher.progress)
        if stage.name == until:
            return


def _run(
    stage: Stage, root: Path, mark: str, report: Callable[[str], None], progress: Callable[[int, int, str], None]
) -> None:
    try:
        folder, work = prepare(stage, root, mark)
        inputs = {need: root / need for need in stage.needs}
        stage.run(StageContext(folder=folder, work=work, inputs=inputs, report=report, progress=progress))
        seal(stage, root, mark)
    except UnderstudyError as error:
        raise type(error)(f"Stage {stage.name!r}: {error}") from error
    except OSError as error:
        mend = "free some space" if error.errno == errno.ENOSPC else "mend this"
        raise DataError(f"Stage {stage.name!r}: {error}; {mend} and run the same command again.") from error


def _make(root: Path) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{root} cannot be made: {error}; choose another output folder.") from error
