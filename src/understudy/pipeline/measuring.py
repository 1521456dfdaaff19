"""What cutting and distilling share: calibration windows of the training's own mixture, and the loss."""

from pathlib import Path
from typing import Any

from torch import Tensor

from understudy.distillation.objective import Distillation
from understudy.distillation.recipe import DistillationRecipe
from understudy.distillation.teacher import vocabulary_hash
from understudy.errors import DataError
from understudy.model.checkpoint import LoadedModel
from understudy.model.config import NemotronConfig
from understudy.pipeline.recipe import MakeRecipe, TrainingPart
from understudy.pipeline.stage import StageContext
from understudy.pipeline.training import teacher_beside
from understudy.training.calibration import draw_batches
from understudy.training.corpus import open_corpus
from understudy.training.objective import Objective

__all__ = ["calibration_part", "calibration_windows", "distillation_of"]


def calibration_part(recipe: MakeRecipe) -> TrainingPart:
    """The training whose mixture tells which texts to calibrate on: distillation's, or else the teacher's."""
    part = recipe.distillation
    return part if part is not None and part.has_stages else recipe.teacher


def calibration_windows(recipe: MakeRecipe, data: Path, context: StageContext, files: LoadedModel) -> list[Tensor]:
    """As many windows of as many tokens as [pruning] says.

    Args:
        recipe: with a [pruning].
        data: folder of the corpora.
        context: of the stage that measures.
        files: whose tokenizer counts.

    Raises:
        DataError: there are none.
    """
    pruning = recipe.pruning
    assert pruning is not None
    training = recipe.training(calibration_part(recipe), name="calibration", model=files.config)
    mixture = training.stages[0].mixture
    batches: list[Tensor] = []
    for source in training.sources:
        share = round(pruning.samples * mixture.get(source.name, 0.0) / sum(mixture.values()))
        if share:
            corpus = open_corpus(
                source, data=data, cache=context.folder.parent / "cache", tokenizer=files.tokenizer,
                eos=files.config.eos_token_id, report=context.report,
            )  # fmt: skip
            stream = (
                corpus.stream if corpus.stream is not None else corpus.dialogues.token_ids if corpus.dialogues else None
            )
            assert stream is not None
            batches += draw_batches(stream, samples=share, length=pruning.length, seed=recipe.seed)
    if not batches:
        raise DataError("The calibration mixture is empty; give [pruning] more samples.")
    return batches


def distillation_of(recipe: MakeRecipe, teacher: LoadedModel, student: NemotronConfig) -> Objective:
    """The loss by [distillation]'s options; the teacher stays in this process."""
    part = recipe.distillation
    options: dict[str, Any] = dict(part.options) if part else {}
    vocabulary = vocabulary_hash(teacher.tokenizer.definition)
    return Distillation(teacher_beside(teacher), DistillationRecipe(**options), student=student, vocabulary=vocabulary)
