"""`understudy distill RECIPE`: a student learns a teacher's distribution."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from understudy.errors import RecipeError

if TYPE_CHECKING:
    from understudy.training.sharding import Ranks

__all__ = ["distill"]


def distill(
    recipe: Annotated[Path, typer.Argument(help="A TOML recipe; docs/training.md tells of its table distillation.")],
    teacher: Annotated[
        Path | None, typer.Option(help="GGUF file, Hugging Face folder, or a served teacher's address file (.json).")
    ] = None,
    student: Annotated[
        Path | None, typer.Option(help="GGUF file or Hugging Face folder; default: random weights.")
    ] = None,
    data: Annotated[Path, typer.Option(help="Folder of the corpora (see docs/training.md).")] = Path("data"),
    output: Annotated[Path | None, typer.Option(help="Folder of the run; default: the recipe's.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Keep the teacher's answers in this folder.")] = None,
    serve: Annotated[
        Path | None, typer.Option(help="Only serve the teacher, to students that get this address file (.json).")
    ] = None,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0: all cores.")] = 0,
) -> None:
    """Distil a teacher into a student; run it again to go on after a stop.

    Two hops, for a student much smaller than its teacher: prune and distil a model between them, then prune that and
    distil it, with the largest model as --teacher both times.

    A teacher whose training data is not yours should first be corrected on the data of the distillation:
    `understudy train RECIPE --start TEACHER`, then distil from that run's folder.

    Several GPUs or processes: torchrun --nproc-per-node N -m understudy.cli distill ...
    """
    try:
        import torch

        from understudy.training.sharding import join_ranks, leave_ranks
    except ImportError as error:
        raise RecipeError(
            f"Distillation needs the workshop, which is not installed ({error.name} is missing): "
            "pip install 'understudy[workshop]'."
        ) from error
    if threads:
        torch.set_num_threads(threads)
    changes = {k: str(v) for k, v in (("teacher", teacher), ("teacher_cache", cache)) if v}
    ranks = join_ranks()
    console = Console(stderr=True, quiet=not ranks.is_first)
    try:
        if serve:
            _serve(recipe, changes, address=serve, ranks=ranks, console=console)
        else:
            _distill(recipe, changes, student=student, data=data, output=output, ranks=ranks, console=console)
    finally:
        leave_ranks()


def _distill(
    recipe: Path,
    changes: dict[str, str],
    *,
    student: Path | None,
    data: Path,
    output: Path | None,
    ranks: "Ranks",
    console: Console,
) -> None:
    from understudy.cli.progress import show_training
    from understudy.distillation.recipe import load_distillation
    from understudy.distillation.run import export_distilled, make_objective, open_teacher, run_tokenizer
    from understudy.model.checkpoint import load_model
    from understudy.training.curve import draw_curve
    from understudy.training.trainer import Trainer

    files = load_model(student) if student else None
    plan, brief = load_distillation(recipe, student=files.config if files else None, changes=changes)
    run = output or Path(plan.output)
    run.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(open_teacher(brief, plan, device=ranks.device)) as teacher:
        with ranks.first_alone():
            tokenizer = run_tokenizer(run, brief, files)
        objective = make_objective(teacher, brief, plan, tokenizer)
        trainer = Trainer(plan, data=data, output=run, tokenizer=tokenizer, report=console.log, objective=objective)
        resumed = trainer.resume()
        if files and not resumed:
            trainer.start_from(files)
        parameters = teacher.facts.config.num_parameters / 1e6
        console.log(
            f"{plan.name}: {plan.model.num_parameters / 1e6:.1f}M parameters learn from {parameters:.1f}M on "
            f"{trainer.device}, {'going on at' if resumed else 'starting at'} step {trainer.step} of {plan.total_steps}"
        )
        show_training(trainer, console)
        if ranks.is_first:
            draw_curve(run, run / "curve.png")
            folder, gguf = export_distilled(plan, brief, teacher, run, student=files)
            console.log(f"wrote {folder}, {gguf} and {run / 'curve.png'}")


def _serve(recipe: Path, changes: dict[str, str], *, address: Path, ranks: "Ranks", console: Console) -> None:
    from understudy.distillation.recipe import load_distillation
    from understudy.distillation.run import is_address, open_teacher
    from understudy.distillation.teacher_server import TeacherServer
    from understudy.model.published import PUBLISHED_SHAPES

    if not is_address(address):
        raise RecipeError(f"--serve takes the name of a .json file to write, got {address}.")
    any_shape = next(iter(PUBLISHED_SHAPES.values()))  # a recipe may leave its student's shape to --student
    plan, brief = load_distillation(recipe, student=any_shape, changes=changes)
    server = TeacherServer(open_teacher(brief, plan, device=ranks.device), address)
    console.log(f"{brief.teacher} answers students that are given --teacher {address}; Ctrl-C ends it")
    try:
        server.serve()
    finally:
        server.close()
