"""`understudy evaluate MODEL`: figures, transcripts, a table and a model card."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from understudy.evaluation.report import Report

__all__ = ["evaluate"]

_WORKSHOP = "The pictures need matplotlib: pip install 'understudy[workshop]'."


def evaluate(
    model: Annotated[Path | None, typer.Argument(help="GGUF file or Hugging Face folder; default: Harrow.")] = None,
    parent: Annotated[Path | None, typer.Option(help="What it was made from: divergences are from this model.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the corpora (see docs/evaluation.md).")] = None,
    tasks: Annotated[str, typer.Option(help="Tasks, comma-separated; default: all that can be run.")] = "",
    output: Annotated[Path, typer.Option(help="Folder of the report; give it again to go on.")] = Path("evaluation"),
    name: Annotated[str, typer.Option(help="What tables call the model; default: its file's name.")] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="Most items of a task; default: all.")] = None,
    seed: Annotated[int, typer.Option(help="Chooses the items where there is a limit.")] = 0,
    against: Annotated[list[Path] | None, typer.Option(help="report.json of a stage before; repeatable.")] = None,
) -> None:
    """Evaluate a model: text, characters, function calls, look-ups, size, speed; write a report and a model card."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from understudy.evaluation.card import CardFacts, write_card
    from understudy.evaluation.comparison import write_comparison
    from understudy.evaluation.evaluate import REPORT
    from understudy.evaluation.evaluate import evaluate as run
    from understudy.evaluation.report import read_report
    from understudy.model.embedded import embedded_model_path

    earlier = [read_report(path) for path in against or ()]
    console = Console(stderr=True)
    columns = (TextColumn("{task.description:12}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bars: dict[str, int] = {}

        def show(task: str, done: int, total: int) -> None:
            if task not in bars:
                bars[task] = progress.add_task(task, total=total)
            progress.update(progress.tasks[bars[task]].id, completed=done, total=total)

        report = run(
            model or embedded_model_path(),
            output=output,
            parent=parent,
            data=data,
            tasks=[task.strip() for task in tasks.split(",") if task.strip()],
            name=name,
            seed=seed,
            limit=limit,
            progress=show,
        )
    write_card(output / "card.md", report, CardFacts(name=report.name, stages=tuple(earlier)))
    try:
        write_comparison([*earlier, report], output)
    except ModuleNotFoundError:
        console.print(_WORKSHOP)
    _table(report)
    console.print(f"wrote {output / REPORT}, {output / 'card.md'} and {output / 'comparison.md'}", highlight=False)


def _table(report: "Report") -> None:
    from rich.console import Console
    from rich.table import Table

    from understudy.evaluation.comparison import show_interval, show_value

    table = Table(title=report.name)
    for heading in ("", "value", "95 % interval", "over"):
        table.add_column(heading, justify="right" if heading else "left")
    for figure in report.figures.values():
        if not figure.is_detail:
            count = "" if figure.count is None else f"{figure.count:,}"
            table.add_row(figure.label, show_value(figure), show_interval(figure), count)
    console = Console()
    console.print(table)
    for result in report.results:
        if result.status == "skipped":
            console.print(f"{result.task} skipped: {result.reason}.", highlight=False, markup=False)
