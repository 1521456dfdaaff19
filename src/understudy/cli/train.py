"""`understudy train RECIPE`: tokenizer, training stages, export."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from understudy.errors import RecipeError

__all__ = ["train"]


def train(
    recipe: Annotated[Path, typer.Argument(help="A TOML recipe, e.g. recipes/harrow.toml.")],
    data: Annotated[Path, typer.Option(help="Folder of the corpora (see docs/training.md).")] = Path("data"),
    output: Annotated[Path | None, typer.Option(help="Folder of the run; default: the recipe's.")] = None,
    start: Annotated[Path | None, typer.Option(help="GGUF file or Hugging Face folder to start from.")] = None,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0: all cores.")] = 0,
) -> None:
    """Train a model from a recipe; run it again to go on after a stop."""
    try:
        import torch

        from understudy.model.checkpoint import load_model
        from understudy.training.curve import draw_curve
        from understudy.training.export import export_run
        from understudy.training.recipe import load_recipe
        from understudy.training.tokenizer import recipe_tokenizer
        from understudy.training.trainer import Trainer
    except ImportError as error:
        raise RecipeError(
            f"Training needs the workshop, which is not installed ({error.name} is missing): "
            "pip install 'understudy[workshop]'."
        ) from error
    if threads:
        torch.set_num_threads(threads)
    console = Console(stderr=True)
    plan = load_recipe(recipe)
    if plan.lora:
        raise RecipeError(f"{recipe} has a table [lora]; run understudy finetune, or take it out.")
    run = output or Path(plan.output)
    run.mkdir(parents=True, exist_ok=True)
    files = load_model(start) if start else None
    if files and not (run / "tokenizer.json").exists():
        (run / "tokenizer.json").write_text(json.dumps(files.tokenizer.definition), encoding="utf-8")
    tokenizer = recipe_tokenizer(plan, data=data, output=run, report=console.log)
    trainer = Trainer(plan, data=data, output=run, tokenizer=tokenizer, report=console.log)
    resumed = trainer.resume()
    if files and not resumed:
        trainer.start_from(files)
    console.log(
        f"{plan.name}: {plan.model.num_parameters / 1e6:.1f}M parameters on {trainer.device}, "
        f"{'going on at' if resumed else 'starting at'} step {trainer.step} of {plan.total_steps}"
    )
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}  {task.fields[rate]:,.0f} tokens/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(plan.name, total=plan.total_steps, completed=trainer.step, loss=float("nan"), rate=0.0)
        for state in trainer.run():
            bar.update(task, completed=state.step, description=state.stage, loss=state.loss, rate=state.tokens_per_s)
    draw_curve(run, run / "curve.png")
    folder, gguf = export_run(plan, run, step=plan.total_steps)
    console.log(f"wrote {folder}, {gguf} and {run / 'curve.png'}")
