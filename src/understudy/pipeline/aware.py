"""The last steps of a model with its weights as the file will hold them (quantization-aware distillation)."""

from functools import partial
from pathlib import Path

from understudy.distillation.objective import Distillation
from understudy.distillation.recipe import DistillationRecipe
from understudy.model.checkpoint import load_model
from understudy.pipeline.estimate import estimate_training
from understudy.pipeline.recipe import MakeRecipe
from understudy.pipeline.stage import Estimate, Stage, StageContext
from understudy.pipeline.training import export_model, model_of, teacher_beside, train_model
from understudy.quantization.aware import quantization_aware
from understudy.quantization.calibration import CalibrationOptions, calibrate
from understudy.quantization.plan import named_plan

__all__ = ["aware_stage"]


def aware_stage(recipe: MakeRecipe, data: Path, *, before: str) -> Stage:
    """Train on with the first plan's weights, by KL from the 16-bit model.

    The scales are searched at every step: so a run that was stopped goes on exactly.

    Args:
        recipe: with an [aware] table.
        data: folder of the corpora.
        before: the stage of the 16-bit model.
    """
    part = recipe.aware
    assert part is not None
    shape, plan = recipe.any_shape(), recipe.quantization
    training = recipe.training(part, name="aware", model=shape)

    def estimate(_: Path) -> Estimate:
        return estimate_training(training, teacher=shape)

    return Stage(
        name="aware",
        needs=(before,),
        settings={
            **recipe.settings(part),
            "plan": plan.plans[0],
            "samples": plan.samples,
            "calibration": plan.calibration,
        },
        run=partial(_train, recipe, data, before),
        estimate=estimate,
    )


def _train(recipe: MakeRecipe, data: Path, before: str, context: StageContext) -> None:
    part, quantization = recipe.aware, recipe.quantization
    assert part is not None
    files = load_model(model_of(context.inputs[before]))
    options = CalibrationOptions(
        source=quantization.calibration, data=data, samples=quantization.samples, seed=recipe.seed
    )
    importance = calibrate(files, options, context.work / "calibration.safetensors")
    plan = named_plan(quantization.plans[0], files.config)
    training = recipe.training(part, name="aware", model=files.config)
    trainer = train_model(
        context,
        training,
        data=data,
        tokenizer=files.tokenizer,
        start=files,
        objective=Distillation(teacher_beside(files), DistillationRecipe(), student=files.config),
        around=lambda model: quantization_aware(model, plan, importance.channels, every=1),
    )
    export_model(context, trainer, more={"aware_of": plan.name})
