"""Speed of engines on one model file, measured side by side."""

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from understudy.evaluation.engines import EngineProcess

__all__ = ["Measurement", "SpeedReport", "measure_speed"]

_DECODE_TOKENS = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurement:
    """One figure of one engine: the median of several runs.

    Attributes:
        what: e.g. "prefill 512" or "decode at 128".
        engine: its name.
        value: tokens/s, seconds or bytes, as `unit` says.
    """

    what: str
    engine: str
    value: float
    unit: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpeedReport:
    """All figures of a run.

    Attributes:
        versions: of each engine.
        measurements: in the order of measuring.
    """

    versions: dict[str, str]
    measurements: tuple[Measurement, ...]

    def value(self, what: str, engine: str) -> float | None:
        """A figure, or None where the engine has none."""
        return next((m.value for m in self.measurements if (m.what, m.engine) == (what, engine)), None)


def _ignore(_: str) -> None:
    pass


def measure_speed(
    model: Path,
    engines: Sequence[str],
    *,
    threads: int,
    repeats: int = 3,
    prefills: Sequence[int] = (128, 512, 2048),
    depths: Sequence[int] = (128, 3900),
    characters: Sequence[int] = (8,),
    report: Callable[[str], None] = _ignore,
) -> SpeedReport:
    """Measure every engine on every task, run by run in turn, all in processes that sleep while others work.

    Args:
        model: a GGUF file.
        engines: names of `installed_engines()`.
        threads: that each engine may use.
        repeats: runs of each figure.
        prefills: prompt lengths in tokens.
        depths: tokens of context at which decoding is measured.
        characters: numbers of sequences decoded together, where an engine can.
        report: told what is being measured.

    Raises:
        EngineError: an engine does not start, or dies.
    """
    found: list[Measurement] = []
    with ExitStack() as stack:
        running = []
        for name in engines:
            report(f"loading {name}")
            running.append(stack.enter_context(EngineProcess(name, model, threads=threads)))
            found.append(Measurement(what="load", engine=name, value=running[-1].load_s, unit="s"))
        for length in prefills:
            report(f"prefill {length}")
            rows = _alternate(running, repeats, lambda e, n=length: n / e.ask(prefill=n)["seconds"])  # type: ignore[misc]
            found += _rows(f"prefill {length}", rows, "tokens/s")
        for depth in depths:
            report(f"decode at {depth}")
            for engine in running:
                engine.ask(prefill=depth)
            rows = _alternate(running, repeats, lambda e: 1 / e.ask(decode=_DECODE_TOKENS)["seconds_a_token"])
            found += _rows(f"decode at {depth}", rows, "tokens/s")
        for count in characters:
            report(f"{count} characters at once")
            able = [e for e in running if e.name == "understudy"]
            for engine in able:
                engine.ask(prefill=128, branch=count)
            rows = _alternate(able, repeats, lambda e, n=count: n / e.ask(decode=_DECODE_TOKENS)["seconds_a_token"])  # type: ignore[misc]
            found += _rows(f"{count} characters at once", rows, "tokens/s")
        for engine in running:
            last: dict[str, Any] = engine.ask()
            for what in ("peak", "mapped"):
                found.append(
                    Measurement(what=f"{what} memory", engine=engine.name, value=last[f"{what}_bytes"], unit="bytes")
                )
        versions = {engine.name: engine.version for engine in running}
    return SpeedReport(versions=versions, measurements=tuple(found))


def _alternate(
    engines: Sequence[EngineProcess], repeats: int, run: Callable[[EngineProcess], float]
) -> dict[str, list[float]]:
    values: dict[str, list[float]] = {engine.name: [] for engine in engines}
    for _ in range(repeats):
        for engine in engines:
            values[engine.name].append(run(engine))
    return values


def _rows(what: str, values: dict[str, list[float]], unit: str) -> list[Measurement]:
    return [Measurement(what=what, engine=e, value=statistics.median(v), unit=unit) for e, v in values.items()]
