"""The loss curve of a run as a picture."""

import csv
from collections import defaultdict
from pathlib import Path

__all__ = ["draw_curve", "read_figures"]


def read_figures(path: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Steps and values of each figure in a run's CSV file; empty if there is none yet."""
    figures: dict[str, tuple[list[int], list[float]]] = defaultdict(lambda: ([], []))
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            for step, _, figure, value in csv.reader(file):
                figures[figure][0].append(int(step))
                figures[figure][1].append(float(value))
    return dict(figures)


def draw_curve(run: Path, target: Path) -> None:
    """Draw losses, bits per byte and look-up rates of the run in folder `run` to the PNG `target`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    for name, (steps, values) in read_figures(run / "losses.csv").items():
        left.plot(steps, values, label=name, linewidth=1)
    left.set(title="training loss (nats a token)", xlabel="step")
    left.grid(alpha=0.3)
    if left.lines:
        left.legend()
    for name, (steps, values) in read_figures(run / "evaluations.csv").items():
        right.plot(steps, values, label=name.replace("_", " "), marker="o", markersize=2, linewidth=1)
    right.set(title="held-out: bits per byte, exact look-ups (share)", xlabel="step")
    right.grid(alpha=0.3)
    if right.lines:
        right.legend()
    part = target.with_suffix(".part.png")
    figure.savefig(part, dpi=110)
    pyplot.close(figure)
    part.replace(target)
