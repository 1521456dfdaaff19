"""The runtime's files of a finished model: one GGUF a plan, and the 16-bit one."""

import dataclasses
from functools import partial
from pathlib import Path

from understudy.model.checkpoint import LoadedModel, load_model
from understudy.model.gguf_writer import write_gguf
from understudy.pipeline.recipe import MakeRecipe
from understudy.pipeline.stage import Estimate, Stage, StageContext
from understudy.pipeline.training import model_of
from understudy.quantization.calibration import CalibrationOptions, calibrate
from understudy.quantization.plan import named_plan
from understudy.quantization.writer import Progress, quantize_model

__all__ = ["quantize_stage"]


def quantize_stage(recipe: MakeRecipe, data: Path, *, of: str) -> Stage:
    """Quantize the last 16-bit model by every plan of the recipe.

    Args:
        recipe: names the plans.
        data: folder of the corpora, for calibration dialogues.
        of: the stage of the model.
    """
    quantization = recipe.quantization
    guess = Estimate(seconds=60.0 * len(quantization.plans), memory_bytes=1 << 30, what=", ".join(quantization.plans))
    return Stage(
        name="quantized",
        needs=(of,),
        settings={"quantization": dataclasses.asdict(quantization), "name": recipe.name, "seed": recipe.seed},
        run=partial(_quantize, recipe, data, of),
        estimate=lambda _: guess,
    )


def _quantize(recipe: MakeRecipe, data: Path, of: str, context: StageContext) -> None:
    files = load_model(model_of(context.inputs[of]))
    quantization = recipe.quantization
    options = CalibrationOptions(
        source=quantization.calibration, data=data, samples=quantization.samples, seed=recipe.seed
    )
    importance = calibrate(
        files,
        options,
        context.work / "calibration.safetensors",
        progress=lambda done, total: context.progress(done, total, "calibrating"),
    )
    _write_f16(recipe, files, context)
    for name in recipe.quantization.plans:
        plan = named_plan(name, files.config)
        for note in plan.notes:
            context.report(f"{name}: {note}")
        target = context.folder / f"{recipe.name}-{name}.gguf"
        if not target.exists():
            done = quantize_model(files, target, plan, importance, progress=partial(_tell, context, name))
            context.report(f"{target.name}: {done.num_bytes / 1e6:,.1f} MB, {done.bits_per_weight:.2f} bits a weight")


def _write_f16(recipe: MakeRecipe, files: LoadedModel, context: StageContext) -> None:
    write_gguf(
        context.folder / f"{recipe.name}-f16.gguf",
        files.config,
        files.weights,
        files.tokenizer.definition,
        files.chat_template,
        file_type="f16",
        metadata={"general.name": recipe.name, "general.license": recipe.card.licence, "general.languages": ["en"]},
    )


def _tell(context: StageContext, plan: str, state: Progress) -> None:
    context.progress(state.tensors, state.num_tensors, f"{plan}: {state.tensor}")
