"""The folder to publish: the files that people run, the 16-bit model, the card, the comparison."""

import dataclasses
import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from understudy.evaluation.card import CardFacts, training_tokens, write_card
from understudy.evaluation.comparison import write_comparison
from understudy.evaluation.evaluate import REPORT
from understudy.evaluation.report import read_report
from understudy.pipeline.recipe import MakeRecipe
from understudy.pipeline.stage import Estimate, Stage, StageContext
from understudy.pipeline.training import model_of
from understudy.training.folder import write_json

__all__ = ["publish_stage"]

_LITTLE = Estimate(seconds=5.0, memory_bytes=1 << 28, what="files, card, comparison")


def publish_stage(recipe: MakeRecipe, *, last: str, reports: tuple[str, ...]) -> Stage:
    """Gather what is published.

    Args:
        recipe: what was made.
        last: the stage of the final 16-bit model.
        reports: stages that evaluated, in their order; the last but those of further plans is the card's.
    """
    return Stage(
        name="published",
        needs=(last, "quantized", *reports),
        settings={"card": dataclasses.asdict(recipe.card), "recipe": _resolved(recipe)},
        run=partial(_publish, recipe, last, reports),
        estimate=lambda _: _LITTLE,
    )


def _publish(recipe: MakeRecipe, last: str, reports: tuple[str, ...], context: StageContext) -> None:
    for path in sorted(context.inputs["quantized"].glob("*.gguf")):
        _link(path, context.folder / path.name)
    for path in sorted(context.inputs["quantized"].iterdir()):
        if path.is_dir():
            shutil.copytree(path, context.folder / path.name, copy_function=_link, dirs_exist_ok=True)
    shutil.copytree(model_of(context.inputs[last]), context.folder / "model", copy_function=_link, dirs_exist_ok=True)
    found = [read_report(context.inputs[name] / REPORT) for name in reports]
    write_comparison(found, context.folder / "evaluation")
    num_files = len(recipe.quantization.plans) + bool(recipe.quantization.memory)
    shipped = found[-num_files]
    card = recipe.card
    facts = CardFacts(
        name=card.title or recipe.name,
        description=card.description,
        author=card.author,
        licence=card.licence,
        base_model=str(recipe.teacher.start or ""),
        recipe=_resolved(recipe),
        corpora=tuple(sorted(recipe.corpora() - {recipe.validation})),
        tokens=_tokens(recipe),
        stages=tuple(report for report in found if report is not shipped),
    )
    write_card(context.folder / "README.md", shipped, facts)
    write_json(context.folder / "recipe.json", _resolved(recipe))


def _link(source: str | Path, target: str | Path) -> str:
    """A hard link where the disk has them, else a copy: models are large."""
    target = Path(target)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return str(target)


def _tokens(recipe: MakeRecipe) -> int:
    counts = [training_tokens({"stages": part.raw.get("stage", [])}) or 0 for part in recipe.trainings().values()]
    return sum(counts)


def _resolved(recipe: MakeRecipe) -> dict[str, Any]:
    """The recipe as JSON, paths of this machine left out."""
    resolved = dataclasses.asdict(recipe)
    for key in ("output", *recipe.trainings(), *(name for name, part in resolved.items() if part is None)):
        resolved.pop(key)
    trainings = {name: dict(part.raw) for name, part in recipe.trainings().items()}
    return {**resolved, "sources": [dict(source) for source in recipe.sources], **trainings}
