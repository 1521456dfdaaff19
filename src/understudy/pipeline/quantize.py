"""The runtime's files of a finished model: one GGUF a plan, and the 16-bit one."""

import dataclasses
from functools import partial
from pathlib import Path

from understudy.model.checkpoint import LoadedModel, load_model
from understudy.model.gguf_writer import write_gguf
from understudy.pipeline.recipe import MakeRecipe
from understudy.pipeline.stage import Estimate, Stage, StageContext
from understudy.pipeline.training import model_of
from understudy.quantization.calibration import CalibrationOptions, calibrate, calibration_batches
from understudy.quantization.compressed_tensors import write_compressed_tensors
from understudy.quantization.nvigi import write_nvigi
from understudy.quantization.plan import choose_plan, named_plan, parse_bytes
from understudy.quantization.writer import Progress, quantize_model

__all__ = ["quantize_stage"]

_FED_BACK_PARAMETERS = 1_000_000_000
_CONTEXT = 4096


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
    small = files.config.num_parameters < _FED_BACK_PARAMETERS
    is_fed_back = small if quantization.feedback is None else quantization.feedback
    feedback = calibration_batches(files, options) if is_fed_back else None
    plans = {name: named_plan(name, files.config) for name in quantization.plans}
    if quantization.memory:
        budget = parse_bytes(quantization.memory)
        context_size = min(_CONTEXT, files.config.max_position_embeddings)
        plans["fit"] = choose_plan(
            files.config, files.weights, importance.channels, budget_bytes=budget, context=context_size
        )
    for name, plan in plans.items():
        for note in plan.notes:
            context.report(f"{name}: {note}")
        target = context.folder / f"{recipe.name}-{name}.gguf"
        if not target.exists():
            tell = partial(_tell, context, name)
            done = quantize_model(files, target, plan, importance, feedback=feedback, progress=tell)
            context.report(f"{target.name}: {done.num_bytes / 1e6:,.1f} MB, {done.bits_per_weight:.2f} bits a weight")
    if "w4g128" in quantization.folders:
        write_compressed_tensors(context.folder / "w4g128", files, strengths=importance.channels)
    if "nvigi" in quantization.folders:
        write_nvigi(context.folder / "nvigi", context.folder / f"{recipe.name}-{quantization.plans[-1]}.gguf")


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
