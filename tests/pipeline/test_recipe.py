from pathlib import Path

import pytest

from understudy.errors import RecipeError
from understudy.pipeline.candidates import candidate_shapes
from understudy.pipeline.recipe import load_make_recipe

GOOD = """
name = "tiny"
seed = 3
validation = "books_dev"

[model]
vocab_size = 512
hidden_size = 64
intermediate_size = 128
num_hidden_layers = 2
num_attention_heads = 4
num_key_value_heads = 2
head_dim = 16

[[source]]
name = "lookups"
kind = "lookup"
count = 50

[[source]]
name = "talk"
kind = "dialogue"
corpora = ["worlds_plain"]

[teacher]
[[teacher.stage]]
name = "all"
steps = 4
length = 64
batch_tokens = 256
mixture = { lookups = 1.0 }

[pruning]
parameters = 60000

[distillation]
temperature = 1.0
[[distillation.stage]]
name = "all"
steps = 4
length = 64
batch_tokens = 256
mixture = { talk = 1.0 }
"""


HALFWAY = """
[halfway]
stage = [{{ name = "all", steps = 2, length = 64, batch_tokens = 256, mixture = {{ lookups = 1.0 }} }}]
parameters = {}
"""

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.mark.parametrize("name", ["harrow.toml", "smoke.toml"])
def test_the_shipped_recipes_are_right(name: str) -> None:
    recipe = load_make_recipe(RECIPES / name)
    assert recipe.model is not None and recipe.pruning is not None
    assert candidate_shapes(recipe.model, recipe.pruning)


def load(tmp_path: Path, text: str) -> object:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    return load_make_recipe(path)


def test_each_training_gets_its_sources(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(GOOD)
    recipe = load_make_recipe(path)
    assert recipe.model is not None and recipe.distillation is not None
    training = recipe.training(recipe.distillation, name="student", model=recipe.model)
    assert [source.name for source in training.sources] == ["talk"]
    assert training.total_steps == 4
    assert recipe.distillation.options == {"temperature": 1.0}
    assert recipe.corpora() == {"worlds_plain", "books_dev"}
    assert recipe.finetune is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("seed = 3", "sead = 3"), "unknown key sead"),
        (("parameters = 60000", "parameters = 0"), "parameters must be"),
        (("parameters = 60000", "num_weights = 60000"), "num_weights"),
        (("steps = 4", "steps = 0"), "steps >= 1"),
        (("mixture = { talk = 1.0 }", "mixture = { tolk = 1.0 }"), "tolk"),
        (('kind = "lookup"', 'kind = "look"'), "kind must be"),
        (("[teacher]", "[teacher]\nfast = true"), "unknown key fast"),
        (("[pruning]", "[halfway]\nparameters = 80000\n[pruning]"), r"needs a \[\[halfway.stage\]\]"),
        (("[pruning]", HALFWAY.format(60_000) + "[pruning]"), "above .*60000, got 60000"),
        (("[pruning]", HALFWAY.format(80_000) + "top_k = 5\n[pruning]"), "unknown key top_k"),
        (("head_dim = 16", "head_dim = 15"), "even number"),
        (("[pruning]\nparameters = 60000", ""), r"\[distillation\] needs a \[pruning\]"),
        (('name = "talk"', 'name = "lookups"'), "same name"),
        (("[teacher]", "[teacher"), "not a readable TOML"),
        (('name = "tiny"', ""), "needs a name"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    assert change[0] in GOOD
    with pytest.raises(RecipeError, match=message):
        load(tmp_path, GOOD.replace(*change, 1))


def test_pruning_needs_texts(tmp_path: Path) -> None:
    text = 'name = "x"\n[teacher]\nstart = "model"\n[pruning]\nparameters = 1000\n'
    with pytest.raises(RecipeError, match="calibrate"):
        load(tmp_path, text)


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="There is no recipe"):
        load_make_recipe(tmp_path / "no.toml")


def test_a_recipe_needs_a_teacher(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="a shape"):
        load(tmp_path, 'name = "x"\n[teacher]\n')
    path = tmp_path / "recipe.toml"
    path.write_text('name = "x"\n[teacher]\nstart = "model"\n')
    assert load_make_recipe(path).teacher.start == tmp_path / "model"
