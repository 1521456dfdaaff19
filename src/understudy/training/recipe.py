"""A training run as a small TOML file."""

import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from understudy.errors import RecipeError
from understudy.model.config import NemotronConfig

__all__ = ["OptimizerRecipe", "Recipe", "SourceRecipe", "StageRecipe", "load_recipe", "parse_recipe"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceRecipe:
    """One corpus.

    Attributes:
        name: what the stages' mixtures call it.
        kind: "text" and "dialogue" name a corpus of `data.sources`; "lookup" is generated; "repeat" is a random
            stretch of tokens or of prose, said twice, with the loss on the second time: it teaches copying fastest.
        corpora: names of the corpora; of texts for text and repeat, of dialogues for dialogue.
        count: number of generated dialogues.
        seed: of the generator.
        mix: weights of the generator's kinds; empty for its default.
        prompt_weight: loss weight of tokens that the character does not say.
    """

    name: str
    kind: Literal["text", "dialogue", "lookup", "repeat"]
    corpora: tuple[str, ...] = ()
    count: int = 0
    seed: int = 0
    mix: Mapping[str, float] = dataclasses.field(default_factory=dict)
    prompt_weight: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in ("text", "dialogue", "lookup", "repeat"):
            raise RecipeError(
                f"source {self.name!r}: kind must be text, dialogue, lookup or repeat, got {self.kind!r}."
            )
        if self.kind == "lookup" and self.count < 1:
            raise RecipeError(f"source {self.name!r}: a lookup source needs count >= 1.")
        if self.kind != "lookup" and not self.corpora:
            raise RecipeError(f"source {self.name!r}: name at least one corpus under 'corpora'.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageRecipe:
    """A stretch of training with one mixture and sequence length.

    Attributes:
        mixture: share of the loss by source name; is normalised to one.
        length: longest sequence, in tokens.
        batch_tokens: tokens a step.
    """

    name: str
    steps: int
    length: int
    batch_tokens: int
    mixture: Mapping[str, float]

    def __post_init__(self) -> None:
        if self.steps < 1 or self.length < 32 or self.batch_tokens < self.length:
            raise RecipeError(f"stage {self.name!r}: needs steps >= 1, length >= 32 and batch_tokens >= length.")
        if not self.mixture or min(self.mixture.values()) < 0 or sum(self.mixture.values()) <= 0:
            raise RecipeError(f"stage {self.name!r}: the mixture needs at least one positive share.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerRecipe:
    """Muon for the blocks' matrices, AdamW for tables, head and norms; warm-up, plateau, linear decay."""

    muon_lr: float = 0.01
    muon_weight_decay: float = 0.01
    adam_lr: float = 0.002
    embedding_lr: float = 0.01
    adam_betas: tuple[float, float] = (0.9, 0.98)
    warmup_steps: int = 100
    decay_share: float = 0.4
    final_lr_share: float = 0.02
    clip_norm: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides what a run makes, but for the folder of the corpora."""

    name: str
    seed: int
    output: str
    model: NemotronConfig
    sources: tuple[SourceRecipe, ...]
    stages: tuple[StageRecipe, ...]
    optimizer: OptimizerRecipe = OptimizerRecipe()
    validation: str = "books_dev"
    evaluate_every: int = 250
    checkpoint_every: int = 500
    probes_per_kind: int = 40

    def __post_init__(self) -> None:
        known = {s.name for s in self.sources}
        for stage in self.stages:
            for name in stage.mixture:
                if name not in known:
                    raise RecipeError(f"stage {stage.name!r}: the mixture names {name!r}, but no source has that name.")
        if not self.stages:
            raise RecipeError("The recipe has no [[stage]].")

    @property
    def total_steps(self) -> int:
        """Steps of all stages."""
        return sum(s.steps for s in self.stages)


def load_recipe(path: Path) -> Recipe:
    """Read and check a recipe.

    Raises:
        RecipeError: missing file, not TOML, an unknown key or a value out of range.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecipeError(f"There is no recipe at {path}; the shipped ones are in recipes/.") from error
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path} is not a readable TOML file: {error}.") from error
    return parse_recipe(raw, where=str(path))


def parse_recipe(raw: Mapping[str, Any], *, where: str) -> Recipe:
    """Check a recipe's tables as TOML gives them.

    Raises:
        RecipeError: an unknown key or a value out of range; the message begins with `where`.
    """
    try:
        return Recipe(
            **{k: v for k, v in raw.items() if k not in ("model", "optimizer", "source", "stage")},
            model=NemotronConfig(**raw.get("model", {})),
            optimizer=OptimizerRecipe(**_tuples(raw.get("optimizer", {}))),
            sources=tuple(SourceRecipe(**_tuples(s)) for s in raw.get("source", [])),
            stages=tuple(StageRecipe(**s) for s in raw.get("stage", [])),
        )
    except TypeError as error:
        raise RecipeError(f"{where}: {error}; compare with recipes/harrow.toml.") from error


def _tuples(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
