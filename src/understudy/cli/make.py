"""`understudy make RECIPE`: from text to a published small model."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from understudy.errors import RecipeError

if TYPE_CHECKING:
    from understudy.pipeline.stage import Stage

__all__ = ["make"]


def make(
    recipe: Annotated[Path, typer.Argument(help="A TOML recipe, e.g. recipes/harrow.toml.")],
    data: Annotated[Path, typer.Option(help="Folder of the corpora (understudy data).")] = Path("data"),
    output: Annotated[Path | None, typer.Option(help="Folder of the run; default: the recipe's.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Tell what would run, for how long; run nothing.")] = False,
    until: Annotated[str | None, typer.Option(help="The last stage to run.")] = None,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0: all cores.")] = 0,
) -> None:
    """Make a model: train, prune, distil, fine-tune, quantize, evaluate; run it again to go on after a stop."""
    try:
        import torch

        from understudy.pipeline.make import all_stages
        from understudy.pipeline.recipe import load_make_recipe
        from understudy.pipeline.runner import run_stages
    except ImportError as error:
        raise RecipeError(
            f"Making models needs the workshop, which is not installed ({error.name} is missing): "
            "pip install 'understudy[workshop]'."
        ) from error
    if threads:
        torch.set_num_threads(threads)
    made = load_make_recipe(recipe)
    root = output or made.output
    stages = all_stages(made, data)
    if plan:
        _show_plan(stages, root)
        return
    with _Bars() as bars:
        run_stages(stages, root, bars, until=until)
    Console(stderr=True).print(f"[bold]{made.name}[/] is ready in {root / stages[-1].name if until is None else root}")


def _show_plan(stages: "Sequence[Stage]", root: Path) -> None:
    from understudy.pipeline.estimate import machine_flops
    from understudy.pipeline.runner import plan

    table = Table("stage", "state", "what", "about", "memory")
    total = 0.0
    for planned in plan(stages, root):
        estimate = planned.estimate
        total += estimate.seconds if estimate else 0.0
        table.add_row(
            planned.stage.name,
            planned.state,
            estimate.what if estimate else "",
            _duration(estimate.seconds) if estimate else "",
            f"{estimate.memory_bytes / 1e9:.1f} GB" if estimate else "",
        )
    console = Console()
    console.print(table)
    console.print(
        f"About {_duration(total)} on this machine ({machine_flops() / 1e9:,.0f} GFLOP/s); results in {root}."
    )


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 1:
        return "under a minute"
    return f"{minutes:,.0f} min" if minutes < 120 else f"{minutes / 60:,.1f} h"


class _Bars:
    """A bar for the stage that runs."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[detail]}"),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> "_Bars":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begin(self, stage: "Stage", state: str, number: int, count: int) -> None:
        """See `pipeline.runner.Watcher`."""
        if self._task is not None:
            self._progress.remove_task(self._task)
        verb = {"done": "is done", "begun": "goes on", "to do": "begins"}[state]
        self._console.log(f"stage {number} of {count}: {stage.name} {verb}")
        self._task = self._progress.add_task(stage.name, total=None, detail="")

    def progress(self, done: int, total: int, detail: str) -> None:
        """See `pipeline.runner.Watcher`."""
        if self._task is not None:
            self._progress.update(self._task, completed=done, total=total, detail=detail)

    def report(self, line: str) -> None:
        """See `pipeline.runner.Watcher`."""
        self._console.log(line)
