from pathlib import Path

import pytest

from understudy.distillation.recipe import DistillationRecipe, load_distillation
from understudy.errors import RecipeError
from understudy.model.published import PUBLISHED_SHAPES
from understudy.testing import tiny_config
from understudy.training.recipe import load_recipe

SHIPPED = Path(__file__).parents[2] / "recipes" / "distill.toml"
TEXT = """
name = "pupil"
seed = 1
output = "runs/pupil"

[distillation]
teacher = "big"
top_k = 200
cosine_weight = 0.5

[[source]]
name = "prose"
kind = "text"
corpora = ["storybooks"]

[[stage]]
name = "one"
steps = 5
length = 32
batch_tokens = 64
mixture = { prose = 1.0 }
"""


def test_the_table_is_read_and_the_student_gives_the_shape(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(TEXT)
    recipe, plan = load_distillation(path, student=tiny_config(), changes={"teacher": "bigger"})
    assert recipe.model == tiny_config() and recipe.total_steps == 5
    assert plan == DistillationRecipe(teacher="bigger", top_k=200, cosine_weight=0.5)
    with pytest.raises(RecipeError, match=r"has a table \[distillation\]; run `understudy distill`"):
        load_recipe(path)


def test_the_shipped_recipe_is_valid() -> None:
    student = PUBLISHED_SHAPES["nemotron-mini-4b"]
    recipe, plan = load_distillation(SHIPPED, student=student)
    assert recipe.model == student and plan == DistillationRecipe()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("warmth = 2.0", "warmth"),
        ("temperature = 0", "temperature must be from"),
        ("temperature = '1'", "distillation"),
        ("cross_entropy_weight = 1.5", "cross_entropy_weight must be"),
        ("cosine_weight = -1", "cosine_weight must be"),
        ("top_k = 0", "top_k must be"),
        ("teacher_dtype = 'int8'", "teacher_dtype must be"),
    ],
)
def test_a_wrong_table_says_what_is_wrong(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "r.toml"
    path.write_text(TEXT.replace("top_k = 200\ncosine_weight = 0.5", line))
    with pytest.raises(RecipeError, match=message):
        load_distillation(path, student=tiny_config())
    path.write_text("distillation = 3\n" + TEXT.replace("[distillation]", "[other]"))
    with pytest.raises(RecipeError, match="must be a table"):
        load_distillation(path)
