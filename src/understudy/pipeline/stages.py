"""The stages of a recipe up to the trained model, in their order."""

import dataclasses
import json
import shutil
from functools import partial
from pathlib import Path

from understudy.data.catalogue import check_file, sources_of
from understudy.errors import RecipeError
from understudy.model.checkpoint import load_model
from understudy.model.config import NemotronConfig
from understudy.pipeline.aware import aware_stage
from understudy.pipeline.candidates import candidate_shapes, search
from understudy.pipeline.estimate import estimate_pass, estimate_training
from understudy.pipeline.halfway import halfway_stage
from understudy.pipeline.measuring import calibration_part, calibration_windows, distillation_of
from understudy.pipeline.recipe import MakeRecipe, TrainingPart
from understudy.pipeline.stage import Estimate, Stage, StageContext
from understudy.pipeline.training import export_model, locate_model, model_of, train_model
from understudy.pipeline.vocabulary import vocabulary_stage
from understudy.pruning.importance import load_importance, measure_importance
from understudy.tokenizer import Tokenizer
from understudy.training.folder import write_json
from understudy.training.tokenizer import recipe_tokenizer

__all__ = ["training_stages"]

_LITTLE = Estimate(seconds=5.0, memory_bytes=1 << 28, what="reads and checks")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Run:
    """What all stages of a run share."""

    recipe: MakeRecipe
    data: Path

    @property
    def parent(self) -> str:
        """The stage whose model teaches."""
        pruning = self.recipe.pruning
        return "vocabulary" if pruning is not None and pruning.vocabulary else "teacher"

    @property
    def uncut(self) -> str:
        """The stage whose model the student is cut from."""
        return "halfway" if self.recipe.halfway is not None else self.parent


def training_stages(recipe: MakeRecipe, data: Path) -> list[Stage]:
    """The stages that end in a trained model, in their order.

    Args:
        recipe: what to make.
        data: folder of the corpora.

    Raises:
        ModelFileError: the checkpoint to start from cannot be read.
    """
    run = _Run(recipe=recipe, data=data)
    teacher_is_given = recipe.teacher.start is not None and not recipe.teacher.has_stages
    stages = [
        _data_stage(run),
        _tokenizer_stage(run),
        Stage(
            name="teacher",
            needs=("data", "tokenizer"),
            settings={
                **({} if teacher_is_given else run.recipe.settings(recipe.teacher)),
                "model": dataclasses.asdict(recipe.model) if recipe.model else None,
                "start": str(recipe.teacher.start) if teacher_is_given else None,
            },
            files=(recipe.teacher.start,) if recipe.teacher.start else (),
            run=partial(_teacher, run),
            estimate=lambda root: _LITTLE if teacher_is_given else _training_estimate(run, recipe.teacher, root),
        ),
    ]
    last = "teacher"
    if run.parent == "vocabulary":
        stages.append(vocabulary_stage(recipe, data))
    if recipe.halfway is not None:
        stages.append(halfway_stage(recipe, data, teacher=run.parent))
    if recipe.pruning is not None:
        stages += _pruning_stages(run)
        last = "candidates"
    if recipe.distillation is not None and recipe.distillation.has_stages:
        stages.append(_student_stage(run, recipe.distillation))
        last = "student"
    if recipe.finetune is not None and recipe.finetune.has_stages:
        stages.append(
            Stage(
                name="finetuned",
                needs=(last,),
                settings=run.recipe.settings(recipe.finetune),
                run=partial(_finetune, run, last),
                estimate=lambda root: _training_estimate(run, recipe.finetune, root),
            )
        )
        last = "finetuned"
    if recipe.aware is not None and recipe.aware.has_stages:
        stages.append(aware_stage(recipe, data, before=last))
    return stages


def _data_stage(run: _Run) -> Stage:
    corpora = run.recipe.corpora()
    return Stage(
        name="data",
        needs=(),
        settings={"corpora": sorted(corpora)},
        files=tuple(run.data / file.path for source in sources_of(corpora) for file in source.files),
        run=partial(_check_data, run),
        estimate=lambda _: _LITTLE,
    )


def _tokenizer_stage(run: _Run) -> Stage:
    recipe = run.recipe
    start = recipe.teacher.start
    named = sorted(source["name"] for source in recipe.sources)
    return Stage(
        name="tokenizer",
        needs=("data",),
        settings={"start": str(start)} if start else {"vocab_size": recipe.vocab_size, "sources": named},
        files=(start,) if start else (),
        run=partial(_tokenizer, run),
        estimate=lambda _: Estimate(seconds=60.0, memory_bytes=1 << 30, what="byte-level BPE"),
    )


def _pruning_stages(run: _Run) -> list[Stage]:
    recipe = run.recipe
    pruning = recipe.pruning
    assert pruning is not None
    part = calibration_part(recipe)
    tokens = pruning.samples * pruning.length
    what = f"{pruning.samples} samples of {pruning.length} tokens"
    measured = {key: getattr(pruning, key) for key in ("samples", "length")}
    brief = recipe.distillation
    return [
        Stage(
            name="importance",
            needs=(run.uncut,),
            settings={**measured, "mixture": part.raw["stage"][0]["mixture"], "seed": recipe.seed},
            run=partial(_importance, run),
            estimate=lambda _: estimate_pass(run.recipe.any_shape(), tokens=tokens, what=what),
        ),
        Stage(
            name="candidates",
            needs=tuple(dict.fromkeys((run.parent, run.uncut, "importance"))),
            settings={
                "pruning": dataclasses.asdict(pruning),
                "distillation": run.recipe.settings(brief) if brief else None,
            },
            run=partial(_candidates, run),
            estimate=partial(_candidates_estimate, run),
        ),
    ]


def _student_stage(run: _Run, part: TrainingPart) -> Stage:
    return Stage(
        name="student",
        needs=(run.parent, "candidates"),
        settings=run.recipe.settings(part),
        run=partial(_distil, run),
        estimate=lambda root: _training_estimate(run, part, root, distils=True),
    )


def _check_data(run: _Run, context: StageContext) -> None:
    """Every public corpus is the catalogue's; what is used, from where and under what licence goes into the result."""
    sources = sources_of(run.recipe.corpora())
    for number, source in enumerate(sources):
        context.progress(number, len(sources), source.title)
        for file in source.files:
            check_file(file, run.data)
    listed = [{**dataclasses.asdict(source), "corpora": list(source.corpora)} for source in sources]
    write_json(context.folder / "data.json", listed)


def _tokenizer(run: _Run, context: StageContext) -> None:
    start = run.recipe.teacher.start
    if start is not None:
        write_json(context.folder / "tokenizer.json", load_model(start).tokenizer.definition)
        return
    assert run.recipe.model is not None
    parts = [p for p in (run.recipe.teacher, run.recipe.distillation, run.recipe.finetune) if p and p.has_stages]
    raw = {"stage": [stage for part in parts for stage in part.raw["stage"]]}
    training = run.recipe.training(TrainingPart(raw=raw), name="tokenizer", model=run.recipe.model)
    recipe_tokenizer(training, data=run.data, output=context.work, report=context.report)
    (context.work / "tokenizer.json").replace(context.folder / "tokenizer.json")


def _teacher(run: _Run, context: StageContext) -> None:
    part = run.recipe.teacher
    start = load_model(part.start) if part.start else None
    if not part.has_stages:
        assert part.start is not None
        locate_model(context.folder, part.start)
        return
    shape = run.recipe.model or (start.config if start else None)
    if shape is None:
        raise RecipeError("the teacher has no shape")
    training = run.recipe.training(part, name="teacher", model=shape)
    trainer = train_model(context, training, data=run.data, tokenizer=_tokenizer_of(context), start=start)
    export_model(context, trainer)


def _importance(run: _Run, context: StageContext) -> None:
    files = load_model(model_of(context.inputs[run.uncut]))
    batches = calibration_windows(run.recipe, run.data, context, files)
    found = measure_importance(files, batches, progress=lambda done, total: context.progress(done, total, "batches"))
    found.save(context.folder / "importance.safetensors")


def _candidates(run: _Run, context: StageContext) -> None:
    teacher = load_model(model_of(context.inputs[run.parent]))
    files = load_model(model_of(context.inputs[run.uncut]))
    importance = load_importance(context.inputs["importance"] / "importance.safetensors", files)
    search(
        context,
        run.recipe,
        data=run.data,
        parent=files,
        importance=importance,
        objective=partial(distillation_of, run.recipe, teacher),
    )


def _distil(run: _Run, context: StageContext) -> None:
    part = run.recipe.distillation
    assert part is not None
    files = load_model(model_of(context.inputs[run.parent]))
    student = load_model(model_of(context.inputs["candidates"]))
    training = run.recipe.training(part, name="student", model=student.config)
    trainer = train_model(
        context,
        training,
        data=run.data,
        tokenizer=student.tokenizer,
        start=student,
        objective=distillation_of(run.recipe, files, student.config),
    )
    export_model(context, trainer, more={"distillation": dict(part.options)})
    candidates = context.inputs["candidates"]
    for name in ("candidates.json", "candidates.png"):
        shutil.copy(candidates / name, context.folder / name)


def _finetune(run: _Run, before: str, context: StageContext) -> None:
    part = run.recipe.finetune
    assert part is not None
    start = load_model(model_of(context.inputs[before]))
    training = run.recipe.training(part, name="finetuned", model=start.config)
    trainer = train_model(context, training, data=run.data, tokenizer=start.tokenizer, start=start)
    export_model(context, trainer)


def _tokenizer_of(context: StageContext) -> Tokenizer:
    return Tokenizer.from_file(context.inputs["tokenizer"] / "tokenizer.json")


def _training_estimate(run: _Run, part: TrainingPart | None, root: Path, *, distils: bool = False) -> Estimate:
    assert part is not None
    teacher = run.recipe.any_shape()
    shape = teacher if part is run.recipe.teacher else _student_shape(run, root)
    training = run.recipe.training(part, name="estimate", model=shape)
    return estimate_training(training, teacher=teacher if distils else None)


def _student_shape(run: _Run, root: Path) -> NemotronConfig:
    """The chosen student's shape, or the first candidate's before there is one."""
    if run.recipe.pruning is None:
        return run.recipe.any_shape()
    chosen = root / "candidates" / "model" / "config.json"
    if chosen.exists():
        return NemotronConfig.from_hf(json.loads(chosen.read_text(encoding="utf-8")))
    return candidate_shapes(run.recipe.any_shape(), run.recipe.pruning)[0]


def _candidates_estimate(run: _Run, root: Path) -> Estimate:
    pruning, part = run.recipe.pruning, run.recipe.distillation
    assert pruning is not None
    if part is None or not part.has_stages:
        return _LITTLE
    teacher = run.recipe.any_shape()
    raw = {**part.raw, "stage": [{**part.raw["stage"][0], "steps": pruning.candidate_steps}]}
    training = run.recipe.training(TrainingPart(raw=raw), name="estimate", model=_student_shape(run, root))
    one = estimate_training(training, teacher=teacher)
    return Estimate(
        seconds=one.seconds * pruning.candidates,
        memory_bytes=one.memory_bytes,
        what=f"{pruning.candidates} candidates, each {one.what}",
    )
