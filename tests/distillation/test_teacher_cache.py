from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from understudy.distillation.recipe import DistillationRecipe
from understudy.distillation.teacher import LocalTeacher, Question
from understudy.distillation.teacher_cache import CachedTeacher
from understudy.errors import DataError
from understudy.model.checkpoint import LoadedModel
from understudy.testing import tiny_model
from understudy.training.recipe import Recipe
from understudy.training.trainer import Trainer

STATES = Question()


def batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(12, 268, (2, 16), generator=generator), torch.rand(2, 16, generator=generator) > 0.5


@pytest.mark.parametrize("plan", [DistillationRecipe(), DistillationRecipe(top_k=9, cosine_weight=0.3)])
def test_losses_are_the_same_with_and_without(
    recipe: Recipe,
    pupil: Callable[..., Trainer],
    teacher: LocalTeacher,
    teacher_files: LoadedModel,
    tmp_path: Path,
    plan: DistillationRecipe,
) -> None:
    losses = []
    for name, asked in {
        "without": teacher,
        "filling": CachedTeacher(LocalTeacher(teacher_files), tmp_path / "cache"),
        "filled": (filled := CachedTeacher(LocalTeacher(teacher_files), tmp_path / "cache")),
    }.items():
        losses.append([p.loss for p in pupil(recipe, plan, asked=asked, output=name).run()])
    assert losses[0] == losses[1] == losses[2]
    assert (filled.num_hits, filled.num_misses) == (recipe.total_steps, 0)
    assert filled._teacher._model is None  # the teacher's blocks were never loaded


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_answer_comes_back_as_it_was(teacher_files: LoadedModel, tmp_path: Path, dtype: str) -> None:
    for question in (STATES, Question(top_k=5, temperature=2.0, has_layer=True)):
        plain = LocalTeacher(teacher_files, dtype=dtype)
        cached = CachedTeacher(plain, tmp_path)
        for _ in range(2):
            expected, got = plain.answer(question, *batch()), cached.answer(question, *batch())
            assert expected.keys() == got.keys() and all(torch.equal(expected[n], got[n]) for n in expected)
    assert (cached.num_hits, cached.num_misses) == (1, 1)
    assert not list(tmp_path.rglob("*.part"))


def test_another_batch_or_teacher_is_another_answer(teacher_files: LoadedModel, tmp_path: Path) -> None:
    cached = CachedTeacher(LocalTeacher(teacher_files), tmp_path)
    ids, chosen = batch()
    documents = torch.zeros_like(ids)
    documents[:, 8:] = 1
    changed = ids.clone()
    changed[0, 0] = 12
    for question in ((ids, chosen), (changed, chosen), (ids, ~chosen), (ids, chosen, documents)):
        cached.answer(STATES, *question)
    assert cached.num_misses == 4
    other = CachedTeacher(LocalTeacher(tiny_model(seed=2, num_hidden_layers=3)), tmp_path)
    other.answer(STATES, ids, chosen)
    assert other.num_misses == 1


def test_a_damaged_file_is_named(teacher_files: LoadedModel, tmp_path: Path) -> None:
    cached = CachedTeacher(LocalTeacher(teacher_files), tmp_path)
    cached.answer(STATES, *batch())
    (path,) = tmp_path.rglob("*.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    with pytest.raises(DataError, match=rf"{path.name} cannot be read .*delete it"):
        cached.answer(STATES, *batch())
    other = CachedTeacher(LocalTeacher(teacher_files), tmp_path / "other")
    other.answer(STATES, batch()[0], torch.ones(2, 16, dtype=torch.bool))
    (longer,) = (tmp_path / "other").rglob("*.safetensors")
    path.write_bytes(longer.read_bytes())
    with pytest.raises(DataError, match=r"\(32, 64\).*the teacher's answer should be"):
        cached.answer(STATES, *batch())


def test_a_folder_that_cannot_be_written_is_named(teacher_files: LoadedModel, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file stands where the folder should be")
    cached = CachedTeacher(LocalTeacher(teacher_files), tmp_path / "taken")
    with pytest.raises(DataError, match=r"cannot be kept in .*taken.*make room, or leave teacher_cache out"):
        cached.answer(STATES, *batch())
