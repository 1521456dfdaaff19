"""The first of two hops: a model between the teacher and a student that is much smaller."""

import dataclasses
from functools import partial
from pathlib import Path

from understudy.model.checkpoint import load_model
from understudy.model.config import NemotronConfig
from understudy.pipeline.candidates import candidate_shapes, cut
from understudy.pipeline.estimate import estimate_training
from understudy.pipeline.measuring import calibration_windows, distillation_of
from understudy.pipeline.recipe import MakeRecipe
from understudy.pipeline.stage import Stage, StageContext
from understudy.pipeline.training import MODEL, export_model, model_of, train_model
from understudy.pruning.importance import load_importance, measure_importance
from understudy.training.folder import write_folder

__all__ = ["halfway_stage"]


def halfway_stage(recipe: MakeRecipe, data: Path, *, teacher: str) -> Stage:
    """Cut the teacher to [halfway]'s size, in the teacher's proportions, and distil that; the student is cut from it.

    Args:
        recipe: with [halfway], [pruning] and [distillation].
        data: folder of the corpora.
        teacher: the stage of the model that is cut, and teaches in both hops.
    """
    part, pruning, brief = recipe.halfway, recipe.pruning, recipe.distillation
    assert part is not None
    assert pruning is not None
    assert brief is not None
    measured = ("samples", "length", "batch", "sequence", "depth")
    return Stage(
        name="halfway",
        needs=(teacher,),
        settings={
            **recipe.settings(part),
            "pruning": {key: getattr(pruning, key) for key in measured},
            "distillation": dict(brief.options),
            "calibration": brief.raw["stage"][0]["mixture"],
        },
        run=partial(_hop, recipe, data, teacher),
        estimate=lambda _: estimate_training(
            recipe.training(part, name="estimate", model=_shape(recipe, recipe.any_shape())),
            teacher=recipe.any_shape(),
        ),
    )


def _shape(recipe: MakeRecipe, teacher: NemotronConfig) -> NemotronConfig:
    assert recipe.halfway is not None
    assert recipe.pruning is not None
    sized = dataclasses.replace(recipe.pruning, parameters=recipe.halfway.options["parameters"], candidates=1)
    return candidate_shapes(teacher, sized)[0]


def _hop(recipe: MakeRecipe, data: Path, teacher: str, context: StageContext) -> None:
    part, pruning = recipe.halfway, recipe.pruning
    assert part is not None
    assert pruning is not None
    files = load_model(model_of(context.inputs[teacher]))
    start = context.work / "start"
    if not (start / "config.json").exists():
        scores = context.work / "importance.safetensors"
        if not scores.exists():
            batches = calibration_windows(recipe, data, context, files)
            found = measure_importance(files, batches, progress=lambda n, total: context.progress(n, total, "batches"))
            found.save(scores)
        importance = load_importance(scores, files)
        tensors, config = cut(files, importance, _shape(recipe, files.config), aggregation=pruning.aggregation())
        write_folder(start, config, tensors, files.tokenizer, chat_template=files.chat_template)
    smaller = load_model(start)
    trainer = train_model(
        context,
        recipe.training(part, name=MODEL, model=smaller.config),
        data=data,
        tokenizer=smaller.tokenizer,
        start=smaller,
        objective=distillation_of(recipe, files, smaller.config),
    )
    export_model(context, trainer)
