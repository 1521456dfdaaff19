"""`understudy train RECIPE`: tokenizer, training stages, export."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from understudy.errors import RecipeError

__all__ = ["train"]


def train(
    recipe: Annotated[Path, typer.Argument(help="A TOML recipe, e.g. recipes/harrow_cpu.toml.")],
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
        from understudy.training.folder import write_json
        from understudy.training.recipe import load_recipe
        from understudy.training.sharding import join_ranks, leave_ranks
        from understudy.training.tokenizer import recipe_tokenizer
        from understudy.training.trainer import Trainer
    except ImportError as error:
        raise RecipeError(
            f"Training needs the workshop, which is not installed ({error.name} is missing): "
            "pip install 'understudy[workshop]'."
        ) from error
    from understudy.cli.progress import show_training

    if threads:
        torch.set_num_threads(threads)
    ranks = join_ranks()
    console = Console(stderr=True, quiet=not ranks.is_first)
    plan = load_recipe(recipe)
    if plan.lora:
        raise RecipeError(f"{recipe} has a table [lora]; run understudy finetune, or take it out.")
    run = output or Path(plan.output)
    run.mkdir(parents=True, exist_ok=True)
    files = load_model(start) if start else None
    with ranks.first_alone():
        if files and not (run / "tokenizer.json").exists():
            write_json(run / "tokenizer.json", files.tokenizer.definition)
        tokenizer = recipe_tokenizer(plan, data=data, output=run, report=console.log)
    trainer = Trainer(plan, data=data, output=run, tokenizer=tokenizer, report=console.log)
    resumed = trainer.resume()
    if files and not resumed:
        trainer.start_from(files)
    console.log(
        f"{plan.name}: {plan.model.num_parameters / 1e6:.1f}M parameters on {trainer.device}, "
        f"{'going on at' if resumed else 'starting at'} step {trainer.step} of {plan.total_steps}"
    )
    show_training(trainer, console)
    if ranks.is_first:
        draw_curve(run, run / "curve.png")
        folder, gguf = export_run(plan, run, step=plan.total_steps)
        console.log(f"wrote {folder}, {gguf} and {run / 'curve.png'}")
    leave_ranks()
