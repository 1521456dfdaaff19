"""A folder of stories, a tiny teacher, and recipes for tiny students, all with one token a byte."""

from collections.abc import Callable
from pathlib import Path

import pytest

from understudy.distillation.objective import Distillation
from understudy.distillation.recipe import DistillationRecipe
from understudy.distillation.teacher import LocalTeacher, Teacher
from understudy.model.checkpoint import LoadedModel
from understudy.testing import byte_tokenizer, tiny_config, tiny_model, write_stories
from understudy.training.recipe import OptimizerRecipe, Recipe, SourceRecipe, StageRecipe
from understudy.training.trainer import Trainer


@pytest.fixture(scope="session")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stories(tmp_path_factory.mktemp("stories"), count=8)


@pytest.fixture(scope="session")
def teacher_files() -> LoadedModel:
    return tiny_model(seed=1, num_hidden_layers=3)


@pytest.fixture(scope="session")
def teacher(teacher_files: LoadedModel) -> LocalTeacher:
    return LocalTeacher(teacher_files)


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    return Recipe(
        name="pupil",
        seed=3,
        output="unused",
        validation="storybooks",
        evaluate_every=1000,
        checkpoint_every=3,
        probes_per_kind=0,
        dtype="float32",
        optimizer=OptimizerRecipe(warmup_steps=2),
        model=tiny_config(hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2),
        sources=(SourceRecipe(name="prose", kind="text", corpora=("storybooks",)),),
        stages=(StageRecipe(name="one", steps=6, length=32, batch_tokens=160, mixture={"prose": 1.0}),),
    )


@pytest.fixture
def pupil(stories: Path, teacher: LocalTeacher, tmp_path: Path) -> Callable[..., Trainer]:
    """Makes a trainer of a student of `teacher`, or of another one."""

    def make(recipe: Recipe, plan: DistillationRecipe, *, asked: Teacher | None = None, output: str = "run") -> Trainer:
        folder = tmp_path / output
        folder.mkdir(exist_ok=True)
        objective = Distillation(asked or teacher, plan, student=recipe.model)
        return Trainer(
            recipe, data=stories, output=folder, tokenizer=byte_tokenizer(), report=print, objective=objective
        )

    return make
