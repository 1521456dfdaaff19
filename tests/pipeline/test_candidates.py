"""The student's shapes, and how they are cut."""

from pathlib import Path

import pytest
import torch

from understudy.errors import RecipeError
from understudy.model.checkpoint import load_model
from understudy.model.embedded import embedded_model_path
from understudy.pipeline.candidates import candidate_shapes, cut
from understudy.pipeline.estimate import estimate_pass, estimate_training
from understudy.pipeline.recipe import PruningRecipe, load_make_recipe
from understudy.pruning.importance import Aggregation, measure_importance

RECIPES = Path(__file__).parents[2] / "recipes"


def test_shapes_are_near_the_target_and_differ() -> None:
    parent = load_model(embedded_model_path(in_16_bits=True)).config
    shapes = candidate_shapes(parent, PruningRecipe(parameters=7_000_000, candidates=4))
    assert 2 <= len(shapes) <= 4
    assert len(set(shapes)) == len(shapes)
    assert all(abs(shape.num_parameters - 7_000_000) <= 350_000 for shape in shapes)
    assert all(shape.vocab_size == parent.vocab_size for shape in shapes)
    only_wide = candidate_shapes(parent, PruningRecipe(parameters=7_000_000, depth=False))
    assert all(shape.num_hidden_layers == parent.num_hidden_layers for shape in only_wide)


def test_a_target_out_of_reach_is_refused() -> None:
    parent = load_model(embedded_model_path(in_16_bits=True)).config
    with pytest.raises(RecipeError, match="within 5%"):
        candidate_shapes(parent, PruningRecipe(parameters=900_000_000))


def test_a_cut_model_has_the_shape_and_the_teachers_values() -> None:
    files = load_model(embedded_model_path(in_16_bits=True))
    shape = candidate_shapes(files.config, PruningRecipe(parameters=7_000_000, candidates=1))[0]
    batch = torch.arange(64).reshape(2, 32) + 300
    importance = measure_importance(files, [batch])
    tensors, config = cut(files, importance, shape, aggregation=Aggregation())
    assert config == shape
    assert tensors["lm_head.weight"].shape == (shape.vocab_size, shape.hidden_size)
    whole = torch.from_numpy(files.weights["lm_head.weight"].dense())
    row = tensors["lm_head.weight"][300]
    assert all(bool((whole[300] == value).any()) for value in row[:20])


def test_estimates_grow_with_the_work() -> None:
    recipe = load_make_recipe(RECIPES / "harrow.toml")
    assert recipe.model is not None and recipe.finetune is not None
    teacher = recipe.training(recipe.teacher, name="teacher", model=recipe.model)
    finetune = recipe.training(recipe.finetune, name="finetune", model=recipe.model)
    long, short = estimate_training(teacher), estimate_training(finetune)
    assert long.seconds > short.seconds > 0
    assert estimate_training(finetune, teacher=recipe.model).seconds > 1.2 * short.seconds
    assert long.memory_bytes > 16 * recipe.model.num_parameters
    assert "4,000 steps" in long.what
    few, many = (estimate_pass(recipe.model, tokens=n, what="").seconds for n in (1000, 100_000))
    assert many == pytest.approx(100 * few)
