"""A whole way from text to a published model as one TOML file."""

import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from understudy.data.lookup.generate import content_hash
from understudy.distillation.recipe import DistillationRecipe
from understudy.errors import DataError, ModelFileError, RecipeError
from understudy.model.checkpoint import load_model
from understudy.model.config import NemotronConfig
from understudy.pruning.importance import Aggregation, Reduction
from understudy.quantization.plan import PLANS, parse_bytes
from understudy.training.recipe import Recipe, SourceRecipe, parse_recipe

__all__ = ["CardRecipe", "MakeRecipe", "PruningRecipe", "QuantizationRecipe", "TrainingPart", "load_make_recipe"]

_TRAINING_KEYS = {
    *("optimizer", "stage", "evaluate_every", "checkpoint_every", "probes_per_kind", "lora", "dtype"),
    "activation_checkpointing",
}
_DISTILLATION_KEYS = {field.name for field in dataclasses.fields(DistillationRecipe)} - {"teacher", "teacher_cache"}
_PARTS = ("teacher", "halfway", "distillation", "finetune", "aware")
_OWN_KEYS = {"distillation": _DISTILLATION_KEYS, "halfway": {"parameters"}}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PruningRecipe:
    """How the student is cut from its teacher.

    Attributes:
        parameters: how many the student shall have; candidates lie within 5 %.
        candidates: how many shapes are tried; each is distilled briefly, the best goes on.
        candidate_steps: of that distillation; rankings settle after 300 to 400.
        samples: calibration dialogues and windows of text.
        length: of each, in tokens.
        batch: aggregation over samples: mean, l2 or var.
        sequence: aggregation over a sample's tokens: mean, l2 or var.
        vocabulary: whether tokens that no source holds are left out.
        depth: whether candidates may have fewer layers.
    """

    parameters: int
    candidates: int = 4
    candidate_steps: int = 100
    samples: int = 128
    length: int = 256
    batch: Reduction = "l2"
    sequence: Reduction = "mean"
    vocabulary: bool = False
    depth: bool = True

    def __post_init__(self) -> None:
        for name in ("parameters", "candidates", "candidate_steps", "samples", "length"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise RecipeError(f"[pruning]: {name} must be a whole number from 1 up, got {value!r}.")
        try:
            self.aggregation()
        except DataError as error:
            raise RecipeError(f"[pruning]: {error}") from error

    def aggregation(self) -> Aggregation:
        """How activations become scores."""
        return Aggregation(batch=self.batch, sequence=self.sequence)


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizationRecipe:
    """What the runtime's file holds.

    Attributes:
        plans: names of `quantization.plan`, one file each; the first is the one to ship.
        memory: of the running model, such as "2.0GB": one more file, NAME-fit.gguf, with the least error that fits.
        folders: further forms: "w4g128" for vLLM, "nvigi" for NVIGI (of the last plan).
        feedback: whether columns make good what others lose by rounding (GPTQ); None: below a billion weights.
        samples: calibration rows of 256 tokens.
        calibration: where they come from: "lookup" for generated dialogues, or a dialogue source of `data.sources`.
    """

    plans: tuple[str, ...] = ("q4",)
    memory: str = ""
    folders: tuple[str, ...] = ()
    feedback: bool | None = None
    samples: int = 128
    calibration: str = "lookup"

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.plans) - set(PLANS)):
            raise RecipeError(f"[quantization]: there is no plan {unknown[0]!r}; choose from {', '.join(PLANS)}.")
        if unknown := sorted(set(self.folders) - {"nvigi", "w4g128"}):
            raise RecipeError(f"[quantization]: there is no folder {unknown[0]!r}; choose from nvigi, w4g128.")
        if not self.plans:
            raise RecipeError("[quantization]: plans needs at least one name.")
        if self.memory:
            parse_bytes(self.memory)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CardRecipe:
    """What the model card says beside the figures."""

    title: str = ""
    description: str = ""
    licence: str = "apache-2.0"
    author: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingPart:
    """A training of the recipe: the tables of `training.recipe`, all but the model and the sources.

    Attributes:
        raw: what TOML gave.
        start: model folder or GGUF file to begin with; None for random weights or the stage before.
        options: keys that belong to the part itself, such as distillation's temperature.
    """

    raw: Mapping[str, Any]
    start: Path | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def has_stages(self) -> bool:
        """Whether there is anything to train."""
        return bool(self.raw.get("stage"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class MakeRecipe:
    """Everything that decides what a run makes, but for the content of the corpora.

    Attributes:
        name: the model's; its files are called by it.
        model: the teacher's shape; None where it starts from a checkpoint.
        sources: all corpora, as TOML gave them; each training uses those that its mixtures name.
        teacher: training of the teacher, or the checkpoint it is.
        halfway: of a model between teacher and student, that the student is cut from; None for one hop.
        pruning: None: the teacher is the model.
        distillation: of the pruned student.
        finetune: on dialogues; None for none.
        aware: last steps with weights as the first plan stores them, by KL from the model before; None for none.
        tasks: names of `evaluation.tasks`; empty for those that the data allow.
        limit: most items of a task; None for all.
    """

    name: str
    seed: int
    output: Path
    validation: str
    vocab_size: int
    model: NemotronConfig | None
    sources: tuple[Mapping[str, Any], ...]
    teacher: TrainingPart
    halfway: TrainingPart | None
    pruning: PruningRecipe | None
    distillation: TrainingPart | None
    finetune: TrainingPart | None
    aware: TrainingPart | None
    quantization: QuantizationRecipe
    tasks: tuple[str, ...]
    limit: int | None
    card: CardRecipe

    def training(self, part: TrainingPart, *, name: str, model: NemotronConfig) -> Recipe:
        """The recipe of one training.

        Args:
            part: which.
            name: what its files are called.
            model: the shape that is trained.
        """
        stages = part.raw.get("stage", [])
        named = {source for stage in stages for source in stage.get("mixture", {})}
        raw = {
            **{key: value for key, value in part.raw.items() if key in _TRAINING_KEYS},
            "name": name,
            "seed": self.seed,
            "output": str(self.output),
            "validation": self.validation,
            "model": dataclasses.asdict(model),
            "source": [source for source in self.sources if source.get("name") in named],
        }
        return parse_recipe(raw, f"the recipe's [{name}]")

    def settings(self, part: TrainingPart) -> dict[str, Any]:
        """All that decides what a training makes: the same settings, the same model."""
        training = self.training(part, name=self.name, model=self.any_shape())
        settings = dataclasses.asdict(training)
        for key in ("model", "output", "checkpoint_every"):
            del settings[key]
        if any(source.kind == "lookup" for source in training.sources):
            settings["look-ups"] = content_hash()
        return {**settings, "options": dict(part.options)}

    def any_shape(self) -> NemotronConfig:
        """The teacher's shape, as the recipe or its checkpoint has it."""
        if self.model is not None:
            return self.model
        assert self.teacher.start is not None
        return load_model(self.teacher.start).config

    def trainings(self) -> dict[str, TrainingPart]:
        """The recipe's trainings by name, in their order."""
        parts = {name: getattr(self, name) for name in _PARTS}
        return {name: part for name, part in parts.items() if part is not None}

    def corpora(self) -> set[str]:
        """Names of all corpora that some training reads."""
        named = {
            source
            for part in self.trainings().values()
            for stage in part.raw.get("stage", [])
            for source in stage.get("mixture", {})
        }
        used = {corpus for source in self.sources if source["name"] in named for corpus in source.get("corpora", ())}
        return used | {self.validation}


def load_make_recipe(path: Path) -> MakeRecipe:
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
    try:
        recipe = _parse(raw, path)
        _check_trainings(recipe)
    except (TypeError, ModelFileError) as error:
        raise RecipeError(f"{path}: {error}; compare with recipes/smoke.toml.") from error
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from error
    return recipe


def _parse(raw: dict[str, Any], path: Path) -> MakeRecipe:
    known = {
        *("name", "seed", "output", "validation", "vocab_size", "model", "source", "pruning", "quantization"),
        *("evaluation", "card", *_PARTS),
    }
    _refuse_unknown(raw, known, "the recipe")
    if "name" not in raw or "teacher" not in raw:
        raise RecipeError("the recipe needs a name and a [teacher].")
    name = str(raw["name"])
    evaluation = raw.get("evaluation", {})
    _refuse_unknown(evaluation, {"tasks", "limit"}, "[evaluation]")
    quantization = dict(raw.get("quantization", {}))
    for key in ("plans", "folders"):
        if key in quantization:
            quantization[key] = tuple(quantization[key])
    parts = {part: _part(raw[part], part, path.parent) for part in _PARTS if part in raw}
    model = raw.get("model")
    return MakeRecipe(
        name=name,
        seed=int(raw.get("seed", 0)),
        output=Path(raw.get("output", f"runs/{name}")),
        validation=str(raw.get("validation", "books_dev")),
        vocab_size=int(raw.get("vocab_size", (model or {}).get("vocab_size", 0))),
        model=NemotronConfig(**model) if model else None,
        sources=tuple(raw.get("source", [])),
        teacher=parts["teacher"],
        halfway=parts.get("halfway"),
        pruning=PruningRecipe(**raw["pruning"]) if "pruning" in raw else None,
        distillation=parts.get("distillation"),
        finetune=parts.get("finetune"),
        aware=parts.get("aware"),
        quantization=QuantizationRecipe(**quantization),
        tasks=tuple(evaluation.get("tasks", ())),
        limit=evaluation.get("limit"),
        card=CardRecipe(**raw.get("card", {})),
    )


def _part(raw: Any, name: str, folder: Path) -> TrainingPart:
    if not isinstance(raw, dict):
        raise RecipeError(f"[{name}] must be a table.")
    options = {key: value for key, value in raw.items() if key not in _TRAINING_KEYS | {"start"}}
    _refuse_unknown(raw, _TRAINING_KEYS | {"start"} | _OWN_KEYS.get(name, set()), f"[{name}]")
    start = raw.get("start")
    return TrainingPart(raw=raw, start=folder / start if start else None, options=options)


def _check_trainings(recipe: MakeRecipe) -> None:
    """Build every training once, so that a mistake shows before the first step."""
    names = [source.get("name") for source in recipe.sources]
    if len(set(names)) != len(names):
        raise RecipeError("two [[source]] tables have the same name.")
    for source in recipe.sources:
        fields: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in source.items()}
        SourceRecipe(**fields)
    if recipe.model is None and recipe.teacher.start is None:
        raise RecipeError("give the teacher a shape, [model], or a checkpoint, [teacher] start = PATH.")
    if recipe.model is not None and recipe.teacher.start is None and not recipe.teacher.has_stages:
        raise RecipeError("[teacher] has neither a [[teacher.stage]] nor a start.")
    if recipe.distillation is not None and recipe.pruning is None:
        raise RecipeError("[distillation] needs a [pruning]: there is no student.")
    can_calibrate = recipe.teacher.has_stages or (recipe.distillation is not None and recipe.distillation.has_stages)
    if recipe.pruning is not None and not can_calibrate:
        raise RecipeError("[pruning] needs a [[distillation.stage]]: its mixture tells which texts to calibrate on.")
    if recipe.distillation is not None:
        DistillationRecipe(**recipe.distillation.options)
    if recipe.halfway is not None:
        _check_halfway(recipe, recipe.halfway)
    shape = recipe.model or NemotronConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, head_dim=8,
    )  # fmt: skip
    for name, part in recipe.trainings().items():
        if part.has_stages:
            recipe.training(part, name=name, model=shape)


def _check_halfway(recipe: MakeRecipe, part: TrainingPart) -> None:
    size = part.options.get("parameters")
    if recipe.pruning is None or recipe.distillation is None or not part.has_stages:
        raise RecipeError("[halfway] needs a [[halfway.stage]], a [pruning] and a [distillation].")
    if not isinstance(size, int) or isinstance(size, bool) or size <= recipe.pruning.parameters:
        raise RecipeError(
            f"[halfway]: parameters must be a whole number above [pruning]'s {recipe.pruning.parameters}, got {size!r}."
        )


def _refuse_unknown(raw: Mapping[str, Any], known: set[str], where: str) -> None:
    unknown = sorted(set(raw) - known)
    if unknown:
        raise RecipeError(f"{where} has the unknown key {', '.join(unknown)}; it knows {', '.join(sorted(known))}.")
