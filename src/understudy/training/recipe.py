"""A training run as a small TOML file."""

import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from understudy.data.licences import check_licence
from understudy.data.sources import EVALUATION_SOURCES
from understudy.errors import RecipeError
from understudy.model.config import NemotronConfig

__all__ = [
    "LORA_MODULES",
    "LoraRecipe",
    "OptimizerRecipe",
    "PreferenceRecipe",
    "Recipe",
    "SourceRecipe",
    "StageRecipe",
    "load_recipe",
    "parse_recipe",
    "read_tables",
]


LORA_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceRecipe:
    """One corpus.

    Attributes:
        name: what the stages' mixtures call it.
        kind: "text" and "dialogue" name a corpus of `data.sources`; "file" is the user's own dialogues; "lookup" is
            generated; "preference" is pairs of answers (`data.preferences`), for recipes with a table [preference];
            "repeat" is a random stretch of tokens or of prose, said twice, with the loss on the second time: it
            teaches copying fastest.
        corpora: names of the corpora; of texts for text and repeat, of dialogues for dialogue; for file and
            preference the paths of JSON-lines files (as in `worlds/README.md`) in the folder of the corpora.
        count: number of generated dialogues.
        seed: of the generator.
        mix: weights of the generator's kinds; empty for its default.
        prompt_weight: loss weight of tokens that the character does not say.
        licence: of the user's own files, an SPDX identifier.
        allow_licence: the user may use them although the licence is not a known permissive one.
        held_out: share of the dialogues that is kept from training; their loss is among the evaluations.
    """

    name: str
    kind: Literal["text", "dialogue", "file", "lookup", "preference", "repeat"]
    corpora: tuple[str, ...] = ()
    count: int = 0
    seed: int = 0
    mix: Mapping[str, float] = dataclasses.field(default_factory=dict)
    prompt_weight: float = 0.0
    held_out: float = 0.0
    licence: str = ""
    allow_licence: bool = False

    def __post_init__(self) -> None:
        if self.kind not in ("text", "dialogue", "file", "lookup", "preference", "repeat"):
            raise RecipeError(
                f"source {self.name!r}: kind must be text, dialogue, file, lookup, preference or repeat, "
                f"got {self.kind!r}."
            )
        if self.kind in ("file", "preference"):
            check_licence(self.name, self.licence, is_allowed=self.allow_licence)
        elif self.licence or self.allow_licence:
            raise RecipeError(
                f"source {self.name!r}: only sources of kind file or preference state a licence; NOTICE has the rest."
            )
        if self.kind == "lookup" and self.count < 1:
            raise RecipeError(f"source {self.name!r}: a lookup source needs count >= 1.")
        if not 0.0 <= self.held_out <= 0.5 or (self.held_out and self.kind in ("text", "repeat")):
            raise RecipeError(f"source {self.name!r}: held_out is a share from 0 to 0.5 of dialogues.")
        if self.kind != "lookup" and not self.corpora:
            raise RecipeError(f"source {self.name!r}: name at least one corpus under 'corpora'.")
        if measured := sorted(EVALUATION_SOURCES & set(self.corpora)):
            raise RecipeError(f"source {self.name!r}: {measured[0]} is for evaluation; training on it spoils it.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageRecipe:
    """A stretch of training with one mixture and sequence length.

    Attributes:
        mixture: share of the loss by source name; is normalised to one.
        length: longest sequence, in tokens.
        batch_tokens: tokens a step.
        packing: put several dialogues into a row of `length` tokens, each blind to the others.
    """

    name: str
    steps: int
    length: int
    batch_tokens: int
    mixture: Mapping[str, float]
    packing: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1 or self.length < 32 or self.batch_tokens < self.length:
            raise RecipeError(f"stage {self.name!r}: needs steps >= 1, length >= 32 and batch_tokens >= length.")
        if not self.mixture or min(self.mixture.values()) < 0 or sum(self.mixture.values()) <= 0:
            raise RecipeError(f"stage {self.name!r}: the mixture needs at least one positive share.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraRecipe:
    """Train small matrices beside frozen ones (LoRA, arXiv 2106.09685) in place of the whole model.

    Attributes:
        rank: of the small matrices.
        alpha: what they add is scaled by alpha / rank.
        modules: Hugging Face's names of the matrices that get them.
    """

    rank: int = 8
    alpha: float = 16.0
    modules: tuple[str, ...] = LORA_MODULES

    def __post_init__(self) -> None:
        if not 1 <= self.rank <= 1024 or not 0 < self.alpha <= 65536:
            raise RecipeError(f"lora: rank must be 1 to 1024 and alpha above 0, got {self.rank} and {self.alpha}.")
        if unknown := [name for name in self.modules if name not in LORA_MODULES]:
            raise RecipeError(f"lora: there is no module {unknown[0]!r}; choose from {', '.join(LORA_MODULES)}.")
        if not self.modules or len(set(self.modules)) < len(self.modules):
            raise RecipeError("lora: name at least one module, each once.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreferenceRecipe:
    """How pairs of answers are learnt from.

    Attributes:
        beta: how dear it is to leave the model that training began with; smaller values let it go further.
        nll_weight: of the chosen answer's own cross-entropy a token, which keeps it likely (as in RPO, 2404.19733).
    """

    beta: float = 0.1
    nll_weight: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.beta <= 10 or not 0 <= self.nll_weight <= 100:
            raise RecipeError(
                f"preference: beta must be above 0 and at most 10, nll_weight 0 to 100, got {self.beta} and "
                f"{self.nll_weight}."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerRecipe:
    """Muon for the blocks' matrices, AdamW for tables, head and norms; warm-up, plateau, linear decay.

    Attributes:
        kind: "muon", or "adamw" for AdamW everywhere.
        schedule: "linear", or "cosine" from the warm-up to the end of the run (without `decay_share`).
        muon_lr: of the blocks' matrices.
        muon_weight_decay: of the blocks' matrices.
        adam_lr: of the head and the norms; under "adamw" of the blocks' matrices, too.
        embedding_lr: of the input table.
        adam_betas: decay of AdamW's averages.
        adam_weight_decay: of the blocks' matrices under "adamw".
        warmup_steps: from nothing to the full rates.
        decay_share: of the run, at its end.
        final_lr_share: of the full rates, at the end.
        clip_norm: longest gradient of all weights together.
    """

    kind: Literal["muon", "adamw"] = "muon"
    schedule: Literal["linear", "cosine"] = "linear"
    muon_lr: float = 0.01
    muon_weight_decay: float = 0.01
    adam_lr: float = 0.002
    embedding_lr: float = 0.01
    adam_betas: tuple[float, float] = (0.9, 0.98)
    adam_weight_decay: float = 0.0
    warmup_steps: int = 100
    decay_share: float = 0.4
    final_lr_share: float = 0.02
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in ("muon", "adamw"):
            raise RecipeError(f"optimizer: kind must be muon or adamw, got {self.kind!r}.")
        if self.schedule not in ("linear", "cosine"):
            raise RecipeError(f"optimizer: schedule must be linear or cosine, got {self.schedule!r}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides what a run makes, but for the folder of the corpora.

    Attributes:
        name: of the files that the run ends with.
        seed: of the weights and of the order of the data.
        output: the run's folder.
        model: the shape.
        sources: corpora.
        stages: one after the other.
        optimizer: kind, rates and schedule.
        lora: adapters to train in place of the model; none for the whole model.
        preference: how pairs of answers are learnt from; none where no source has any.
        validation: text corpus for bits per byte; "" for none.
        evaluate_every: steps.
        checkpoint_every: steps.
        probes_per_kind: look-up dialogues that are tried at an evaluation; 0 for none.
        dtype: of the products: "auto" (bfloat16 where the machine is fast at it), "bfloat16" or "float32".
        activation_checkpointing: keep only each block's input for the backward pass and compute the rest again; a
            third more time, a fraction of the memory.
    """

    name: str
    seed: int
    output: str
    model: NemotronConfig
    sources: tuple[SourceRecipe, ...]
    stages: tuple[StageRecipe, ...]
    optimizer: OptimizerRecipe = OptimizerRecipe()
    lora: LoraRecipe | None = None
    preference: PreferenceRecipe | None = None
    validation: str = "books_dev"
    evaluate_every: int = 250
    checkpoint_every: int = 500
    probes_per_kind: int = 40
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    activation_checkpointing: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in ("auto", "bfloat16", "float32"):
            raise RecipeError(f"dtype must be auto, bfloat16 or float32, got {self.dtype!r}.")
        known = {s.name for s in self.sources}
        for stage in self.stages:
            for name in stage.mixture:
                if name not in known:
                    raise RecipeError(f"stage {stage.name!r}: the mixture names {name!r}, but no source has that name.")
        if (self.preference is not None) != any(s.kind == "preference" for s in self.sources):
            raise RecipeError("A table [preference] and a source of kind preference belong together; one is missing.")
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
    return parse_recipe(read_tables(path), path)


def read_tables(path: Path) -> dict[str, Any]:
    """The tables of a recipe, unchecked, for verbs that have a table of their own.

    Raises:
        RecipeError: missing file, or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecipeError(f"There is no recipe at {path}; the shipped ones are in recipes/.") from error
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path} is not a readable TOML file: {error}.") from error


def parse_recipe(raw: Mapping[str, Any], where: Path | str) -> Recipe:
    """Check the tables of a recipe.

    Args:
        raw: from `read_tables`.
        where: they come from; named in errors.

    Raises:
        RecipeError: an unknown key or a value out of range.
    """
    if "distillation" in raw:
        raise RecipeError(f"{where} has a table [distillation]; run `understudy distill`, or take it out.")
    try:
        return Recipe(
            **{
                k: v for k, v in raw.items() if k not in ("lora", "model", "optimizer", "preference", "source", "stage")
            },
            model=NemotronConfig(**raw.get("model", {})),
            optimizer=OptimizerRecipe(**_tuples(raw.get("optimizer", {}))),
            lora=LoraRecipe(**_tuples(raw["lora"])) if "lora" in raw else None,
            preference=PreferenceRecipe(**raw["preference"]) if "preference" in raw else None,
            sources=tuple(SourceRecipe(**_tuples(s)) for s in raw.get("source", [])),
            stages=tuple(StageRecipe(**s) for s in raw.get("stage", [])),
        )
    except TypeError as error:
        raise RecipeError(f"{where}: {error}; compare with recipes/harrow_cpu.toml.") from error


def _tuples(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
