"""The `[distillation]` table of a recipe."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from understudy.errors import RecipeError
from understudy.model.config import NemotronConfig
from understudy.training.recipe import Recipe, parse_recipe, read_tables

__all__ = ["DistillationRecipe", "load_distillation"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillationRecipe:
    """How a student learns from a teacher; the defaults are Minitron's (arXiv 2407.14679).

    Attributes:
        teacher: GGUF file, Hugging Face folder, or the address file (.json) of a teacher that another process serves.
        temperature: divides both models' logits.
        top_k: compare only the teacher's k likeliest tokens, and all others as one bucket; without it all tokens.
            Below 100 it costs quality.
        cross_entropy_weight: share of the loss that is the text's cross-entropy, from 0 to 1.
        cosine_weight: of the cosine distance between the two models' states three layers before the end, through a
            projection that is learned along; for students with far fewer layers.
        teacher_cache: folder for the teacher's answers: each batch is then asked once, whatever is tried on it later.
        teacher_dtype: of the teacher's matrices: "auto" (as the student's products), "bfloat16" or "float32".
    """

    teacher: str = ""
    temperature: float = 1.0
    top_k: int | None = None
    cross_entropy_weight: float = 0.0
    cosine_weight: float = 0.0
    teacher_cache: str = ""
    teacher_dtype: Literal["auto", "bfloat16", "float32"] = "auto"

    def __post_init__(self) -> None:
        if not 0.05 <= self.temperature <= 100:
            raise RecipeError(f"distillation: temperature must be from 0.05 to 100, got {self.temperature!r}.")
        if self.top_k is not None and self.top_k < 1:
            raise RecipeError(f"distillation: top_k must be a whole number from 1 up, got {self.top_k!r}.")
        if not 0 <= self.cross_entropy_weight <= 1:
            raise RecipeError(
                f"distillation: cross_entropy_weight must be from 0 to 1, got {self.cross_entropy_weight!r}."
            )
        if not 0 <= self.cosine_weight <= 100:
            raise RecipeError(f"distillation: cosine_weight must be from 0 to 100, got {self.cosine_weight!r}.")
        if self.teacher_dtype not in ("auto", "bfloat16", "float32"):
            raise RecipeError(
                f"distillation: teacher_dtype must be auto, bfloat16 or float32, got {self.teacher_dtype!r}."
            )


def load_distillation(
    path: Path, *, student: NemotronConfig | None = None, changes: Mapping[str, str] | None = None
) -> tuple[Recipe, DistillationRecipe]:
    """Read and check a recipe with a `[distillation]` table, which may be missing for its defaults.

    Args:
        path: the TOML file.
        student: the shape, for a recipe without `[model]`.
        changes: values of `[distillation]` that the command line gave.

    Raises:
        RecipeError: missing file, not TOML, an unknown key or a value out of range.
    """
    raw = read_tables(path)
    table = raw.pop("distillation", {})
    if not isinstance(table, dict):
        raise RecipeError(f"{path}: distillation must be a table, [distillation], got {table!r}.")
    if student and "model" not in raw:
        raw["model"] = dataclasses.asdict(student)
    try:
        recipe = DistillationRecipe(**{**table, **(changes or {})})
    except TypeError as error:
        raise RecipeError(f"{path}, [distillation]: {error}; docs/training.md lists the keys.") from error
    return parse_recipe(raw, path), recipe
