"""The whole way: training stages, quantization, a report after each, the published folder."""

from pathlib import Path

from understudy.pipeline.publish import publish_stage
from understudy.pipeline.quantize import quantize_stage
from understudy.pipeline.recipe import MakeRecipe
from understudy.pipeline.reports import report_stage
from understudy.pipeline.stage import Stage
from understudy.pipeline.stages import training_stages

__all__ = ["all_stages"]

_MODELS = ("teacher", "halfway", "candidates", "student", "finetuned", "aware")


def all_stages(recipe: MakeRecipe, data: Path) -> list[Stage]:
    """Every stage of a recipe, each evaluation right behind what it evaluates.

    Divergences are from the teacher up to the student, from the last 16-bit model for the quantized files.

    Args:
        recipe: what to make.
        data: folder of the corpora.
    """
    stages: list[Stage] = []
    last = "teacher"
    trainings = training_stages(recipe, data)
    teacher = "vocabulary" if any(stage.name == "vocabulary" for stage in trainings) else "teacher"
    for stage in trainings:
        stages.append(stage)
        if stage.name in _MODELS:
            parent = None if stage.name == "teacher" else teacher
            stages.append(report_stage(recipe, data, stage.name, parent=parent))
            last = stage.name
    stages.append(quantize_stage(recipe, data, of=last))
    reports = [stage.name for stage in stages if stage.name.endswith("-report")]
    for plan in (*recipe.quantization.plans, *(["fit"] if recipe.quantization.memory else [])):
        file = f"{recipe.name}-{plan}.gguf"
        report = report_stage(recipe, data, "quantized", parent=last, file=file, name=f"{plan}-report")
        stages.append(report)
        reports.append(report.name)
    stages.append(publish_stage(recipe, last=last, reports=tuple(reports)))
    return stages
