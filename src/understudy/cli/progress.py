"""The progress bar of a training run."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from understudy.training.trainer import Trainer

__all__ = ["show_training"]


def show_training(trainer: "Trainer", console: Console) -> None:
    """Run a trainer to its end; loss, speed and the time left are shown, by the first of several processes."""
    if not trainer.ranks.is_first:
        for _ in trainer.run():
            pass
        return
    recipe = trainer.recipe
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}  {task.fields[rate]:,.0f} tokens/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(recipe.name, total=recipe.total_steps, completed=trainer.step, loss=float("nan"), rate=0.0)
        for state in trainer.run():
            bar.update(task, completed=state.step, description=state.stage, loss=state.loss, rate=state.tokens_per_s)
