"""`understudy bench`: speed and memory, side by side with other engines."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from understudy.errors import EngineError

if TYPE_CHECKING:
    from understudy.evaluation.speed import SpeedReport

__all__ = ["bench"]

_MAX_TOKENS = 4000  # what is decoded must fit the context, too


def bench(
    model: Annotated[Path, typer.Argument(help="A GGUF file; make one of any size with `understudy synth`.")],
    threads: Annotated[int, typer.Option(min=0, help="Threads of each engine; 0: all cores.")] = 0,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each figure; medians are shown.")] = 3,
    peers: Annotated[
        str | None,
        typer.Option(
            help="Other engines to measure, comma-separated, or none; default: all installed (understudy[bench])."
        ),
    ] = None,
    llama_bench: Annotated[
        Path | None, typer.Option(help="One more: a program with the options of llama.cpp's llama-bench.")
    ] = None,
    prefill: Annotated[str, typer.Option(help="Prompt lengths, comma-separated.")] = "128,512,2048",
    depth: Annotated[str, typer.Option(help="Tokens of context at which decoding is measured.")] = "128,3900",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Write a PNG of the figures (needs matplotlib).")] = None,
) -> None:
    """Measure prefill, decode, many characters, loading and memory, and compare with the engines installed here."""
    import dataclasses
    import json
    import os
    import platform
    import time

    from rich.console import Console

    from understudy.evaluation.engines import installed_engines
    from understudy.evaluation.speed import measure_speed

    console = Console(stderr=True)
    engines = _engines(peers, installed_engines())
    prefills, depths = _lengths("--prefill", prefill), _lengths("--depth", depth)
    if not model.exists():
        raise EngineError(f"There is no file {model}; make one: understudy synth {model.name}")
    with console.status("measuring") as status:
        report = measure_speed(
            model,
            engines,
            threads=threads or os.cpu_count() or 1,
            llama_bench=llama_bench,
            repeats=repeats,
            prefills=prefills,
            depths=depths,
            report=lambda text: status.update(f"measuring: {text}"),
        )
    if as_json:
        print(json.dumps({"model": str(model), "machine": platform.platform(), **dataclasses.asdict(report)}, indent=1))
    else:
        _table(report, list(report.versions), f"{model.name}, {time.strftime('%Y-%m-%d')}")
    if plot:
        _plot(report, list(report.versions), plot)


def _engines(peers: str | None, installed: list[str]) -> list[str]:
    """This package's engine and its peers; "llama.cpp" names both of its settings."""
    if peers is None:
        return installed
    found = installed[:1]
    for asked in (name.strip() for name in peers.split(",") if name.strip() not in ("", "none")):
        names = [name for name in installed[1:] if name.split(",")[0] == asked]
        if not names:
            here = ", ".join(dict.fromkeys(name.split(",")[0] for name in installed[1:])) or "none"
            raise EngineError(
                f"There is no engine {asked!r} here; --peers takes {here}: pip install 'understudy[bench]'."
            )
        found += [name for name in names if name not in found]
    return found


def _lengths(option: str, text: str) -> list[int]:
    pieces = [piece.strip() for piece in text.split(",")]
    if not all(piece.isdecimal() and 1 <= int(piece) <= _MAX_TOKENS for piece in pieces):
        raise EngineError(f"{option} takes whole numbers from 1 to {_MAX_TOKENS}, comma-separated, got {text!r}.")
    return [int(piece) for piece in pieces]


def _table(report: "SpeedReport", engines: list[str], title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for heading in ("", *engines, "ratio to the best other", "share of the machine's limit"):
        table.add_column(heading, justify="right" if heading else "left")
    for what in dict.fromkeys(m.what for m in report.measurements):
        values = [report.value(what, engine) for engine in engines]
        unit = next(m.unit for m in report.measurements if m.what == what)
        ceiling = report.ceilings.get(what)
        share = f"{values[0] / ceiling:.0%} of {ceiling:.0f}" if ceiling and values[0] else ""
        table.add_row(what, *(_shown(value, unit) for value in values), _ratio(values, unit), share)
    console = Console()
    console.print(table)
    if report.limits:
        memory, int8 = report.limits["bytes_per_s"] / 1e9, report.limits["int8_ops_per_s"] / 1e9
        console.print(f"this machine: {memory:.1f} GB/s from memory, {int8:.0f} GOPS of 8 bits", highlight=False)
    for name, version in report.versions.items():
        console.print(f"{name}: {version}", highlight=False)


def _shown(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    return f"{value / 1e9:.2f} GB" if unit == "bytes" else f"{value:.{2 if unit == 's' else 1}f} {unit}"


def _ratio(values: list[float | None], unit: str) -> str:
    others = [value for value in values[1:] if value]
    if values[0] is None or not others:
        return ""
    best = values[0] / max(others) if unit == "tokens/s" else min(others) / max(values[0], 1e-9)
    return f"{best:.2f} x"


def _plot(report: "SpeedReport", engines: list[str], path: Path) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise EngineError("--plot needs matplotlib: pip install matplotlib.") from error
    rows = list(dict.fromkeys(m.what for m in report.measurements if m.unit == "tokens/s"))
    figure = Figure(figsize=(8, 0.6 * len(rows) + 1.5), layout="constrained")
    axes = figure.subplots()
    height = 0.8 / len(engines)
    for number, engine in enumerate(engines):
        values = [report.value(what, engine) or 0.0 for what in rows]
        bars = axes.barh([i + number * height for i in range(len(rows))], values, height, label=engine)
        axes.bar_label(bars, fmt="%.1f", padding=3)
    axes.set_yticks([i + 0.4 - height / 2 for i in range(len(rows))], rows)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("tokens/s")
    axes.legend()
    figure.savefig(path)
