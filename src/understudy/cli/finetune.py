"""`understudy finetune RECIPE`: a model that is there learns from dialogues."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from understudy.errors import RecipeError

__all__ = ["finetune"]


def finetune(
    recipe: Annotated[Path, typer.Argument(help="A TOML recipe, e.g. recipes/finetune.toml.")],
    model: Annotated[
        Path | None, typer.Option(help="GGUF file or Hugging Face folder to begin with; default: the embedded model.")
    ] = None,
    data: Annotated[Path, typer.Option(help="Folder of the corpora and of your own files.")] = Path("data"),
    output: Annotated[Path | None, typer.Option(help="Folder of the run; default: the recipe's.")] = None,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0: all cores.")] = 0,
) -> None:
    """Fine-tune on dialogues or pairs of answers (DPO), whole or by adapters (LoRA); again, to go on after a stop."""
    try:
        import torch

        from understudy.training.sharding import join_ranks, leave_ranks
    except ImportError as error:
        raise RecipeError(
            f"Fine-tuning needs the workshop, which is not installed ({error.name} is missing): "
            "pip install 'understudy[workshop]'."
        ) from error
    if threads:
        torch.set_num_threads(threads)
    console = Console(stderr=True, quiet=not join_ranks().is_first)
    try:
        _finetune(recipe, model, data, output, console)
    finally:
        leave_ranks()


def _finetune(recipe: Path, model: Path | None, data: Path, output: Path | None, console: Console) -> None:
    from understudy.cli.progress import show_training
    from understudy.model.checkpoint import load_model
    from understudy.model.embedded import embedded_model_path
    from understudy.training.curve import draw_curve
    from understudy.training.finetuning import export_finetuned, finetuning_recipe
    from understudy.training.folder import read_lm
    from understudy.training.preference import DirectPreference
    from understudy.training.sharding import join_ranks
    from understudy.training.trainer import Trainer

    files = load_model(model or embedded_model_path(in_16_bits=True))
    plan = finetuning_recipe(recipe, files)
    run = output or Path(plan.output)
    run.mkdir(parents=True, exist_ok=True)
    objective = None
    if plan.preference:
        objective = DirectPreference(read_lm(files.path, device=join_ranks().device)[0], plan.preference)
    trainer = Trainer(plan, data=data, output=run, tokenizer=files.tokenizer, report=console.log, objective=objective)
    trainer.start_from(files)
    resumed = trainer.resume()
    learning = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    console.log(
        f"{plan.name}: {learning:,} of {plan.model.num_parameters:,} parameters learn on "
        f"{trainer.device}, {'going on at' if resumed else 'starting at'} step {trainer.step} of {plan.total_steps}"
    )
    if not resumed:
        console.log("before:", ", ".join(f"{name} {value:.3f}" for name, value in trainer.evaluate().items()))
    show_training(trainer, console)
    if trainer.ranks.is_first:
        draw_curve(run, run / "curve.png")
        made = export_finetuned(plan, files, run)
        written = [str(path) for path in (made.folder, made.gguf, made.adapters, made.gguf_adapters) if path]
        console.log("wrote", ", ".join([*written, str(run / "curve.png")]))
