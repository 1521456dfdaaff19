"""A small corpus folder and a recipe, made afresh, so that training tests need no downloads."""

from pathlib import Path

import pytest

from understudy.model.config import NemotronConfig
from understudy.testing import write_stories
from understudy.tokenizer import Tokenizer
from understudy.training.recipe import OptimizerRecipe, Recipe, SourceRecipe, StageRecipe
from understudy.training.tokenizer import recipe_tokenizer


@pytest.fixture(scope="session")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stories(tmp_path_factory.mktemp("corpora"), count=40)


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    return Recipe(
        name="mini",
        seed=3,
        output="unused",
        validation="storybooks",
        evaluate_every=8,
        checkpoint_every=4,
        probes_per_kind=2,
        optimizer=OptimizerRecipe(warmup_steps=2),
        model=NemotronConfig(
            vocab_size=512,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            max_position_embeddings=256,
        ),
        sources=(
            SourceRecipe(name="prose", kind="text", corpora=("storybooks",)),
            SourceRecipe(name="lookups", kind="lookup", count=200, seed=5),
        ),
        stages=(
            StageRecipe(name="one", steps=6, length=64, batch_tokens=512, mixture={"prose": 1.0}),
            StageRecipe(name="two", steps=6, length=256, batch_tokens=1024, mixture={"prose": 0.5, "lookups": 0.5}),
        ),
    )


@pytest.fixture(scope="session")
def tokenizer(recipe: Recipe, corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    return recipe_tokenizer(recipe, data=corpora, output=folder, report=lambda text: None)
