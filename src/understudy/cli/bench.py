"""`understudy bench`: speed and memory, side by side with other engines."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from understudy.errors import EngineError

if TYPE_CHECKING:
    from understudy.evaluation.speed import SpeedReport

__all__ = ["bench"]


def bench(
    model: Annotated[Path, typer.Argument(help="A GGUF file; make one of any size with `understudy synth`.")],
    threads: Annotated[int, typer.Option(min=0, help="Threads of each engine; 0: all cores.")] = 0,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each figure; medians are shown.")] = 3,
    only: Annotated[str, typer.Option(help="Engines to measure, comma-separated; default: all installed.")] = "",
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
    engines = [name.strip() for name in only.split(",")] if only else installed_engines()
    if unknown := [name for name in engines if name not in installed_engines()]:
        raise EngineError(f"There is no engine {unknown[0]!r} here; choose from {', '.join(installed_engines())}.")
    if not model.exists():
        raise EngineError(f"There is no file {model}; make one: understudy synth {model.name}")
    with console.status("measuring") as status:
        report = measure_speed(
            model,
            engines,
            threads=threads or os.cpu_count() or 1,
            repeats=repeats,
            report=lambda text: status.update(f"measuring: {text}"),
        )
    if as_json:
        print(json.dumps({"model": str(model), "machine": platform.platform(), **dataclasses.asdict(report)}, indent=1))
    else:
        _table(report, engines, f"{model.name}, {time.strftime('%Y-%m-%d')}")
    if plot:
        _plot(report, engines, plot)


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
