from pathlib import Path

import pytest

from understudy.errors import ModelFileError, RecipeError
from understudy.training.recipe import SourceRecipe, load_recipe

SHIPPED = Path(__file__).parents[2] / "recipes" / "harrow_cpu.toml"


def test_the_shipped_recipe_is_valid() -> None:
    recipe = load_recipe(SHIPPED)
    assert recipe.model.num_parameters < 12_500_000
    for size in (recipe.model.hidden_size, recipe.model.intermediate_size, 4 * recipe.model.head_dim):
        assert size % 256 == 0  # rows of whole K-quant blocks


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("seed = 7", "sede = 7"), "sede"),
        (("hidden_size = 256", "hidden_size = 0"), "hidden_size"),
        (('kind = "text"', 'kind = "txt"'), "kind must be"),
        (("prose = 0.1", "prosa = 0.1"), "no source has that name"),
        (("seed = 7", "seed = "), "not a readable TOML"),
        (("length = 640", "length = 8"), "length >= 32"),
        (("muon_lr = 0.01", 'kind = "sgd"'), "kind must be muon or adamw"),
        (("muon_lr = 0.01", 'schedule = "steps"'), "schedule must be linear or cosine"),
        (("seed = 7", 'seed = 7\ndtype = "int8"'), "dtype must be"),
    ],
)
def test_a_wrong_recipe_says_what_is_wrong(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    text = SHIPPED.read_text(encoding="utf-8")
    assert change[0] in text
    path = tmp_path / "recipe.toml"
    path.write_text(text.replace(*change), encoding="utf-8")
    with pytest.raises((RecipeError, ModelFileError), match=message):
        load_recipe(path)


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no recipe at .*nothing\.toml"):
        load_recipe(tmp_path / "nothing.toml")


def test_evaluation_texts_are_not_trained_on() -> None:
    with pytest.raises(RecipeError, match="books_dev is for evaluation"):
        SourceRecipe(name="prose", kind="text", corpora=("books_dev",))
