"""What stands around a distillation: which teacher, which tokenizer, which files at the end."""

import dataclasses
import json
from pathlib import Path

import torch

from understudy.distillation.objective import Distillation
from understudy.distillation.recipe import DistillationRecipe
from understudy.distillation.teacher import LocalTeacher, Teacher, vocabulary_hash
from understudy.distillation.teacher_cache import CachedTeacher
from understudy.distillation.teacher_server import RemoteTeacher
from understudy.errors import DataError, RecipeError
from understudy.model.checkpoint import LoadedModel, load_model
from understudy.prompt.chat_template import NEMOTRON_CHAT_TEMPLATE
from understudy.tokenizer import Tokenizer
from understudy.training.export import export_model, read_checkpoint
from understudy.training.folder import write_json
from understudy.training.model import NemotronLM
from understudy.training.precision import has_fast_bf16
from understudy.training.recipe import Recipe

__all__ = ["export_distilled", "is_address", "make_objective", "open_teacher", "run_tokenizer"]


def open_teacher(plan: DistillationRecipe, recipe: Recipe, *, device: torch.device) -> Teacher:
    """The teacher that a recipe names, behind its cache if it has one.

    Raises:
        RecipeError: it names none.
        ModelFileError: there is no such model.
        DataError: the teacher of an address file does not answer.
    """
    if not plan.teacher:
        raise RecipeError("Name a teacher: `teacher` in the recipe's [distillation], or --teacher.")
    path = Path(plan.teacher)
    if is_address(path):
        teacher: Teacher = RemoteTeacher(path)
    else:
        teacher = LocalTeacher(load_model(path), device=device, dtype=_teacher_dtype(plan, recipe, device))
    return CachedTeacher(teacher, Path(plan.teacher_cache)) if plan.teacher_cache else teacher


def is_address(path: Path) -> bool:
    """Whether a path names a teacher in another process, not a model."""
    return path.suffix == ".json"


def run_tokenizer(run: Path, plan: DistillationRecipe, student: LoadedModel | None) -> Tokenizer:
    """The run's tokenizer; a new run takes the student's, or for a student of random weights the teacher's.

    Raises:
        RecipeError: neither is at hand.
    """
    path = run / "tokenizer.json"
    if not path.exists():
        source = student
        if source is None and is_address(Path(plan.teacher)):
            raise RecipeError(
                f"A teacher in another process does not hand out its tokenizer; give --student, or copy it to {path}."
            )
        source = source or load_model(Path(plan.teacher))
        write_json(path, source.tokenizer.definition)
    return Tokenizer.from_file(path)


def make_objective(teacher: Teacher, plan: DistillationRecipe, recipe: Recipe, tokenizer: Tokenizer) -> Distillation:
    """The loss for a trainer, after a look at whether the two models fit.

    Raises:
        DataError: they do not.
    """
    return Distillation(teacher, plan, student=recipe.model, vocabulary=vocabulary_hash(tokenizer.definition))


def export_distilled(
    recipe: Recipe, plan: DistillationRecipe, teacher: Teacher, run: Path, *, student: LoadedModel | None
) -> tuple[Path, Path]:
    """Write the student as a folder and a GGUF; both tell the recipe, the loss and the teacher's hash.

    No licence is stated: it depends on the teacher's.

    Raises:
        DataError: the run is not at its end, or the disk refuses.
    """
    state = read_checkpoint(run, step=recipe.total_steps)
    model = NemotronLM(recipe.model)
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        raise DataError(f"{run / 'checkpoint.pt'} belongs to a model of another shape than the recipe's.") from error
    told = {**dataclasses.asdict(plan), "teacher": teacher.fingerprint()}
    told.pop("teacher_cache")
    return export_model(
        model,
        recipe,
        run,
        Tokenizer.from_file(run / "tokenizer.json"),
        steps=state["step"],
        licence=None,
        chat_template=(student.chat_template if student else None) or NEMOTRON_CHAT_TEMPLATE,
        metadata={"understudy.distillation": json.dumps(told, sort_keys=True)},
    )


def _teacher_dtype(plan: DistillationRecipe, recipe: Recipe, device: torch.device) -> str:
    for choice in (plan.teacher_dtype, recipe.dtype):
        if choice != "auto":
            return choice
    return "bfloat16" if has_fast_bf16(device) else "float32"
