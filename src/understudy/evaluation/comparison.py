"""Reports side by side: a Markdown table, quality against size, bars for each task over the stages."""

from collections.abc import Sequence
from pathlib import Path

from understudy.errors import DataError
from understudy.evaluation.report import Report
from understudy.evaluation.task import Figure

__all__ = [
    "comparison_table",
    "draw_bars",
    "draw_quality",
    "report_table",
    "show_interval",
    "show_value",
    "write_comparison",
]

_QUALITY = (
    "books.bits_per_byte",
    "lines.bits_per_byte",
    "kl_lines.kl",
    "npc.all",
    "npc.facts",
    "calls.exact",
    "fairytaleqa.f1",
)
_MISSING = "-"


def show_value(figure: Figure, value: float | None = None) -> str:
    """A figure's value, or another one in its unit (an end of its interval), as people read it."""
    number = figure.value if value is None else value
    if figure.unit == "share":
        return f"{100 * number:.1f} %"
    if figure.unit == "bytes":
        return f"{number / 1e6:,.1f} MB"
    if figure.unit == "tokens/s":
        return f"{number:,.0f} tokens/s"
    if figure.unit in ("bits/byte", "nats", "bits"):
        return f"{number:.3f} {figure.unit}"
    digits = f"{number:,.0f}" if number == int(number) else f"{number:,.2f}"
    return f"{digits} {figure.unit}".rstrip()


def report_table(report: Report) -> str:
    """One report as Markdown: figures with intervals and counts, then what was skipped and why."""
    rows = ["| figure | value | 95 % interval | over |", "|---|---|---|---|"]
    for figure in report.figures.values():
        if not figure.is_detail:
            count = "" if figure.count is None else f"{figure.count:,}"
            rows.append(f"| {figure.label} | {show_value(figure)} | {show_interval(figure)} | {count} |")
    skipped = [f"- {r.task}: {r.reason}." for r in report.results if r.status == "skipped"]
    return "\n".join([*rows, *(["", "Skipped:", "", *skipped] if skipped else []), ""])


def comparison_table(reports: Sequence[Report]) -> str:
    """Several reports as one Markdown table, a column each; the best of a row is bold.

    Raises:
        DataError: there is no report.
    """
    if not reports:
        raise DataError("There is nothing to compare; give at least one report.")
    all_figures = [report.figures for report in reports]
    rows = ["| figure | " + " | ".join(_escape(r.name) for r in reports) + " |", "|---|" + "---|" * len(reports)]
    for name, label in _labels(all_figures).items():
        found = [figures.get(name) for figures in all_figures]
        best = _best([figure for figure in found if figure])
        cells = [_cell(figure, is_best=figure is not None and figure.value == best) for figure in found]
        rows.append(f"| {label} | " + " | ".join(cells) + " |")
    notes = [
        f"- {_escape(report.name)}, {result.task}: {result.reason}."
        for report in reports
        for result in report.results
        if result.status == "skipped"
    ]
    return "\n".join([*rows, *(["", f"{_MISSING} is not measured. Skipped:", "", *notes] if notes else []), ""])


def write_comparison(reports: Sequence[Report], folder: Path) -> tuple[Path, ...]:
    """Write `comparison.md`, `quality_size.png` and a PNG of bars for each task.

    Returns:
        The files, the table first.

    Raises:
        DataError: there is no report, or the disk refuses.
        ModuleNotFoundError: matplotlib is not installed.
    """
    text = comparison_table(reports)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        table = folder / "comparison.md"
        part = folder / "comparison.md.part"
        part.write_text(text, encoding="utf-8")
        part.replace(table)
        files = [table]
        if draw_quality(reports, folder / "quality_size.png"):
            files.append(folder / "quality_size.png")
        tasks = dict.fromkeys(result.task for report in reports for result in report.results)
        bars = {task: folder / f"task_{task}.png" for task in tasks}
        files += [path for task, path in bars.items() if draw_bars(reports, task, path)]
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error}; make room or choose another folder.") from error
    return tuple(files)


def draw_quality(reports: Sequence[Report], path: Path) -> bool:
    """Draw figures of quality against the size of the weight files, a panel each.

    Returns:
        Whether there was anything to draw.
    """
    names = [name for name in _QUALITY if any(name in report.figures for report in reports)]
    if not names:
        return False
    from matplotlib.figure import Figure as Canvas

    columns = min(3, len(names))
    num_rows = -(-len(names) // columns)
    canvas = Canvas(figsize=(4.2 * columns, 3.4 * num_rows), layout="constrained")
    for panel, name in enumerate(names):
        axes = canvas.add_subplot(num_rows, columns, panel + 1)
        label = ""
        for report in reports:
            figure = report.figures.get(name)
            if figure is not None:
                label = figure.label
                megabytes = report.model.file_bytes / 1e6
                axes.errorbar([megabytes], [figure.value], yerr=_errors(figure), fmt="o", capsize=3)
                axes.annotate(report.name, (megabytes, figure.value), xytext=(5, 5), textcoords="offset points")
        axes.set(title=label, xlabel="size of the weight files (MB)", xscale="log")
        axes.margins(0.25)
        axes.grid(alpha=0.3)
    _save(canvas, path)
    return True


def draw_bars(reports: Sequence[Report], task: str, path: Path) -> bool:
    """Draw a task's figures as bars, a bar each report, a panel each unit.

    Returns:
        Whether there was anything to draw.
    """
    found = [
        {f.name: f for f in result.figures if not f.is_detail} if (result := report.result(task)) else {}
        for report in reports
    ]
    labels = _labels(found)
    units = list(dict.fromkeys(f.unit for figures in found for f in figures.values()))
    if not labels:
        return False
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(9, 1.2 + 0.35 * (len(reports) + 1) * len(labels)), layout="constrained")
    sizes = [sum(_unit(found, name) == unit for name in labels) for unit in units]
    panels = canvas.subplots(len(units), 1, squeeze=False, height_ratios=sizes)[:, 0]
    for unit, axes in zip(units, panels, strict=True):
        names = [name for name in labels if _unit(found, name) == unit]
        height = 0.8 / len(reports)
        for number, (report, figures) in enumerate(zip(reports, found, strict=True)):
            rows = [(row, figures[name]) for row, name in enumerate(names) if name in figures]
            places = [row + number * height for row, _ in rows]
            bars = axes.barh(places, [figure.value for _, figure in rows], height, label=report.name)
            axes.bar_label(bars, [show_value(figure) for _, figure in rows], padding=3, fontsize=7)
        axes.set_yticks([row + 0.4 - height / 2 for row in range(len(names))], [labels[name] for name in names])
        axes.invert_yaxis()
        axes.margins(x=0.18)
        axes.set_xlabel(unit)
    canvas.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", fontsize=7)
    _save(canvas, path)
    return True


def _unit(found: Sequence[dict[str, Figure]], name: str) -> str:
    return next(figures[name].unit for figures in found if name in figures)


def _labels(all_figures: Sequence[dict[str, Figure]]) -> dict[str, str]:
    """Labels of the figures that tables show, by name, in order."""
    return {name: f.label for figures in all_figures for name, f in figures.items() if not f.is_detail}


def _best(figures: Sequence[Figure]) -> float | None:
    """The best value, where there is a choice and a better way."""
    values = [figure.value for figure in figures]
    if len(set(values)) < 2 or not figures[0].better:
        return None
    return max(values) if figures[0].better == "higher" else min(values)


def _cell(figure: Figure | None, *, is_best: bool) -> str:
    if figure is None:
        return _MISSING
    interval = show_interval(figure)
    shown = f"**{show_value(figure)}**" if is_best else show_value(figure)
    return f"{shown} ({interval})" if interval else shown


def show_interval(figure: Figure) -> str:
    """A figure's 95 % interval as people read it, without its unit; empty if it has none."""
    if figure.low is None or figure.high is None:
        return ""
    low, high = (
        show_value(figure, end).removesuffix(figure.unit).removesuffix("%").strip() for end in (figure.low, figure.high)
    )
    return f"{low} to {high}"


def _errors(figure: Figure) -> list[list[float]] | None:
    if figure.low is None or figure.high is None:
        return None
    return [[max(0.0, figure.value - figure.low)], [max(0.0, figure.high - figure.value)]]


def _escape(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _save(canvas: object, path: Path) -> None:
    part = path.with_name(path.stem + ".part.png")
    canvas.savefig(part, dpi=110)  # type: ignore[attr-defined]
    part.replace(path)
