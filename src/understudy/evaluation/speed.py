"""Speed of engines on one model file, measured side by side."""

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Protocol

from understudy.evaluation.engines import EngineProcess
from understudy.evaluation.peers_llama_bench import LlamaBench

__all__ = ["Measurement", "SpeedReport", "measure_speed"]

_DECODE_TOKENS = 16
_READ_BYTES = 64 << 20


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
        limits: of the machine, measured in the same run: bytes/s read from memory, 8-bit operations/s.
        ceilings: for prefill and decode the tokens/s that these limits allow for this package's own file layout.
    """

    versions: dict[str, str]
    measurements: tuple[Measurement, ...]
    limits: dict[str, float]
    ceilings: dict[str, float]

    def value(self, what: str, engine: str) -> float | None:
        """A figure, or None where the engine has none."""
        return next((m.value for m in self.measurements if (m.what, m.engine) == (what, engine)), None)


class _Engine(Protocol):
    """An engine that sleeps until it is asked: `EngineProcess` or `LlamaBench`."""

    name: str
    version: str
    load_s: float | None
    can: frozenset[str]

    def ask(self, **command: int) -> dict[str, Any]: ...


def _ignore(_: str) -> None:
    pass


def measure_speed(
    model: Path,
    engines: Sequence[str],
    *,
    threads: int,
    llama_bench: Path | None = None,
    repeats: int = 3,
    prefills: Sequence[int] = (128, 512, 2048),
    depths: Sequence[int] = (128, 3900),
    characters: Sequence[int] = (8,),
    persona: tuple[int, int] = (1500, 16),
    report: Callable[[str], None] = _ignore,
) -> SpeedReport:
    """Measure every engine on every task, run by run in turn, all in processes that sleep while others work.

    Args:
        model: a GGUF file.
        engines: names of `installed_engines()`.
        threads: that each engine may use.
        llama_bench: a program with llama-bench's options, measured as one more engine under its file's name.
        repeats: runs of each figure.
        prefills: prompt lengths in tokens.
        depths: tokens of context at which decoding is measured.
        characters: numbers of sequences decoded together, where an engine can.
        persona: tokens of a prompt's beginning that is known from before, and of what is new; time to first token
            with nothing known ("cold"), and with the beginning cached ("warm").
        report: told what is being measured.

    Raises:
        EngineError: an engine does not start, or dies.
    """
    found: list[Measurement] = []
    with ExitStack() as stack:
        running = _start(stack, engines, llama_bench, model, threads=threads, report=report)
        found += [Measurement(what="load", engine=e.name, value=e.load_s, unit="s") for e in running if e.load_s]
        for length in prefills:
            report(f"prefill {length}")
            rows = _alternate(running, repeats, lambda e, n=length: n / e.ask(prefill=n)["seconds"])  # type: ignore[misc]
            found += _rows(f"prefill {length}", rows, "tokens/s")
        report("first token after {} + {}".format(*persona))
        found += _first_token(running, *persona, repeats)
        for depth in depths:
            report(f"decode at {depth}")
            found += _decode(running, depth, repeats)
        for count in characters:
            report(f"{count} characters at once")
            found += _characters(running, count, repeats)
        for engine in running:
            found += _memory(engine)
        report("the machine's limits")
        floors: dict[str, float] = next((e.ask(floors=1)["floors"] for e in running if "floors" in e.can), {})
        versions = {engine.name: engine.version for engine in running}
    return SpeedReport(
        versions=versions,
        measurements=tuple(found),
        limits={name: floors[name] for name in ("bytes_per_s", "int8_ops_per_s") if name in floors},
        ceilings=_ceilings(floors, prefills, depths) if floors else {},
    )


def _start(
    stack: ExitStack,
    engines: Sequence[str],
    llama_bench: Path | None,
    model: Path,
    *,
    threads: int,
    report: Callable[[str], None],
) -> list[_Engine]:
    report("reading the file into the page cache")
    with model.open("rb") as file:
        while file.read(_READ_BYTES):
            pass
    running: list[_Engine] = []
    for name in engines:
        report(f"loading {name}")
        running.append(stack.enter_context(EngineProcess(name, model, threads=threads)))
    if llama_bench:
        report(f"loading {llama_bench.name}")
        running.append(stack.enter_context(closing(LlamaBench(llama_bench, model, threads=threads))))
    return running


def _first_token(engines: Sequence[_Engine], known: int, new: int, repeats: int) -> list[Measurement]:
    what = f"first token after {known} + {new}"
    able = [engine for engine in engines if "extend" in engine.can]
    cold = _alternate(able, 1, lambda e: e.ask(prefill=known + new)["seconds"])
    warm = _alternate(able, repeats, lambda e: e.ask(extend=new, after=known)["seconds"])
    return [*_rows(f"{what}, cold", cold, "s"), *_rows(f"{what}, warm", warm, "s")]


def _decode(engines: Sequence[_Engine], depth: int, repeats: int) -> list[Measurement]:
    for engine in engines:
        engine.ask(context=depth)
    rows = _alternate(engines, repeats, lambda e: 1 / e.ask(decode=_DECODE_TOKENS)["seconds_a_token"])
    return _rows(f"decode at {depth}", rows, "tokens/s")


def _characters(engines: Sequence[_Engine], count: int, repeats: int) -> list[Measurement]:
    able = [engine for engine in engines if "branch" in engine.can]
    for engine in able:
        engine.ask(context=128, branch=count)
    rows = _alternate(able, repeats, lambda e: count / e.ask(decode=_DECODE_TOKENS)["seconds_a_token"])
    return _rows(f"{count} characters at once", rows, "tokens/s")


def _memory(engine: _Engine) -> list[Measurement]:
    last: dict[str, Any] = engine.ask()
    return [
        Measurement(what=f"{what} memory", engine=engine.name, value=last[f"{what}_bytes"], unit="bytes")
        for what in ("peak", "mapped")
        if f"{what}_bytes" in last
    ]


def _ceilings(floors: dict[str, float], prefills: Sequence[int], depths: Sequence[int]) -> dict[str, float]:
    """Decode reads every weight and the cache once a token; prefill multiplies, and attends to half its length."""
    found = {}
    for length in prefills:
        ops = floors["ops_per_token"] + floors["attention_ops_per_pair"] * length / 2
        found[f"prefill {length}"] = floors["int8_ops_per_s"] / ops
    for depth in depths:
        read = floors["weight_bytes"] + floors["cache_bytes_per_token"] * depth
        found[f"decode at {depth}"] = floors["bytes_per_s"] / read
    return found


def _alternate(engines: Sequence[_Engine], repeats: int, run: Callable[[_Engine], float]) -> dict[str, list[float]]:
    values: dict[str, list[float]] = {engine.name: [] for engine in engines}
    for _ in range(repeats):
        for engine in engines:
            values[engine.name].append(run(engine))
    return values


def _rows(what: str, values: dict[str, list[float]], unit: str) -> list[Measurement]:
    return [Measurement(what=what, engine=e, value=statistics.median(v), unit=unit) for e, v in values.items()]
