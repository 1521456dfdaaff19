"""A training as part of a stage: resumed from its checkpoint, exported as a folder."""

import contextlib
import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from understudy.distillation.teacher import LocalTeacher
from understudy.errors import DataError
from understudy.model.checkpoint import LoadedModel
from understudy.pipeline.stage import StageContext
from understudy.tokenizer import Tokenizer
from understudy.training.curve import draw_curve
from understudy.training.export import resolved_recipe
from understudy.training.folder import write_folder, write_json
from understudy.training.lora import merge_lora
from understudy.training.model import NemotronLM, to_hf_tensors
from understudy.training.objective import Objective
from understudy.training.precision import has_fast_bf16
from understudy.training.recipe import Recipe
from understudy.training.trainer import Trainer

__all__ = ["MODEL", "export_model", "locate_model", "model_of", "teacher_beside", "train_model"]

MODEL = "model"
_LOCATION = "location.json"
_RUN = "run"


def model_of(folder: Path) -> Path:
    """Where the model of a finished stage lies: in its folder, or where the stage says.

    Raises:
        DataError: the stage has none.
    """
    if (folder / MODEL).is_dir():
        return folder / MODEL
    try:
        return Path(json.loads((folder / _LOCATION).read_text(encoding="utf-8"))["model"])
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{folder} holds no model; run the recipe again.") from error


def locate_model(folder: Path, path: Path) -> None:
    """Make a stage's model one that lies elsewhere, such as a published checkpoint of many gigabytes."""
    write_json(folder / _LOCATION, {"model": str(path.resolve())})


def teacher_beside(files: LoadedModel) -> LocalTeacher:
    """A frozen model in this process, on its fastest device and in its fastest type."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return LocalTeacher(files, device=device, dtype="bfloat16" if has_fast_bf16(device) else "float32")


def train_model(
    context: StageContext,
    recipe: Recipe,
    *,
    data: Path,
    tokenizer: Tokenizer,
    start: LoadedModel | None = None,
    objective: Objective | None = None,
    name: str = _RUN,
    settings: Mapping[str, Any] | None = None,
    around: Callable[[NemotronLM], AbstractContextManager[object]] = contextlib.nullcontext,
) -> Trainer:
    """Train to the end of the recipe, from the last checkpoint if there is one.

    The corpora are encoded once for all stages of the run, into `cache/` beside them.

    Args:
        context: of the stage; checkpoints go to its work folder.
        recipe: what to train.
        data: folder of the corpora.
        tokenizer: the model's.
        start: weights to begin with.
        objective: the loss; the next token's cross-entropy by default.
        name: of the run inside the work folder.
        settings: goes into progress lines, such as {"candidate": "2 of 4"}.
        around: opened around the training, such as quantization-aware weights.

    Returns:
        The trainer, at its last step.
    """
    run = context.work / name
    run.mkdir(parents=True, exist_ok=True)
    write_json(run / "tokenizer.json", tokenizer.definition)
    trainer = Trainer(
        recipe,
        data=data,
        output=run,
        tokenizer=tokenizer,
        report=context.report,
        objective=objective,
        corpora=context.folder.parent / "cache",
    )
    if start is not None:
        trainer.start_from(start)
    about = "".join(f"{key} {value}, " for key, value in (settings or {}).items())
    with around(trainer.model):
        trainer.resume()
        for state in trainer.run():
            detail = f"{about}loss {state.loss:.3f}, {state.tokens_per_s:,.0f} tokens/s"
            context.progress(state.step, state.total_steps, detail)
    return trainer


def export_model(context: StageContext, trainer: Trainer, *, more: Mapping[str, Any] | None = None) -> None:
    """Write a trained model, its curve and its figures into the stage's folder.

    Args:
        context: of the stage.
        trainer: at its last step.
        more: what the training's recipe does not say of how it was made.
    """
    if trainer.recipe.lora:
        merge_lora(trainer.model)
    tensors = to_hf_tensors(trainer.model)
    made_by = {**json.loads(resolved_recipe(trainer.recipe, trainer.step)), **(more or {})}
    metadata = {"understudy.recipe": json.dumps(made_by, sort_keys=True)}
    write_folder(context.folder / MODEL, trainer.recipe.model, tensors, trainer.tokenizer, metadata=metadata)
    run = context.work / _RUN
    draw_curve(run, context.folder / "curve.png")
    for csv in ("losses.csv", "evaluations.csv"):
        if (run / csv).exists():
            shutil.copy(run / csv, context.folder / csv)
