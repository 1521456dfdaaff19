"""Evaluation after every stage, one table and the pictures."""

from functools import partial
from pathlib import Path

from understudy.evaluation.evaluate import evaluate
from understudy.evaluation.registry import choose_tasks
from understudy.pipeline.recipe import MakeRecipe
from understudy.pipeline.stage import Estimate, Stage, StageContext
from understudy.pipeline.training import model_of

__all__ = ["report_stage"]

_SECONDS_PER_TASK = 30.0


def report_stage(
    recipe: MakeRecipe, data: Path, of: str, *, parent: str | None, file: str | None = None, name: str = ""
) -> Stage:
    """Evaluate the model of a stage.

    Args:
        recipe: names the tasks.
        data: folder of the corpora.
        of: the stage whose model is evaluated.
        parent: the stage whose model divergences are from, if any.
        file: the model within the stage's folder; where its `model/` is, by default.
        name: of the stage; OF-report by default.
    """
    tasks = choose_tasks(recipe.tasks)
    needs = (of,) if parent is None else (of, parent)
    guess = Estimate(seconds=_SECONDS_PER_TASK * len(tasks), memory_bytes=1 << 30, what=f"{len(tasks)} tasks")
    return Stage(
        name=name or f"{of}-report",
        needs=needs,
        settings={"tasks": [f"{task.name} {task.version}" for task in tasks], "seed": recipe.seed, "file": file},
        run=partial(_evaluate, recipe, data, of, parent, file),
        estimate=lambda _: guess,
    )


def _evaluate(
    recipe: MakeRecipe, data: Path, of: str, parent: str | None, file: str | None, context: StageContext
) -> None:
    def progress(task: str, done: int, total: int) -> None:
        context.progress(done, total, task)

    folder = context.inputs[of]
    evaluate(
        folder / file if file else model_of(folder),
        output=context.folder,
        parent=model_of(context.inputs[parent]) if parent else None,
        data=data if data.is_dir() else None,
        tasks=recipe.tasks,
        name=Path(file).stem if file else of,
        seed=recipe.seed,
        limit=recipe.limit,
        progress=progress,
    )
