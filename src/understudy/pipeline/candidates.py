"""The search for the student's shape: each candidate is cut, distilled briefly and ranked."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from understudy.model.checkpoint import LoadedModel, load_model
from understudy.model.config import NemotronConfig
from understudy.pipeline.recipe import MakeRecipe, PruningRecipe
from understudy.pipeline.stage import StageContext
from understudy.pipeline.training import MODEL, train_model
from understudy.pruning.candidates import SearchSpace, enumerate_candidates
from understudy.pruning.depth import choose_layers, prune_depth
from understudy.pruning.importance import Aggregation, Importance
from understudy.pruning.tensors import stored_tensors
from understudy.pruning.width import WidthTarget, order_by_importance, prune_width
from understudy.training.curve import read_figures
from understudy.training.folder import write_folder, write_json
from understudy.training.objective import Objective
from understudy.training.recipe import Recipe

__all__ = ["candidate_shapes", "cut", "search"]

_K_QUANT = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Tried:
    """A candidate after its brief distillation.

    Attributes:
        number: from 1, in the order of trying.
        config: its shape.
        bits_per_byte: on the validation text.
        loss: of the last steps, nats a token; all candidates saw the same batches.
    """

    number: int
    config: NemotronConfig
    bits_per_byte: float
    loss: float

    def row(self) -> dict[str, Any]:
        shape = dataclasses.asdict(self.config)
        return {
            "number": self.number,
            "parameters": self.config.num_parameters,
            "bits_per_byte": self.bits_per_byte,
            "loss": self.loss,
            **{k: shape[k] for k in ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads")},
        }


def candidate_shapes(parent: NemotronConfig, pruning: PruningRecipe) -> list[NemotronConfig]:
    """Shapes within 5 % of the target, spread over width and depth.

    Small models get steps of 64 channels, so that there is something to choose from; larger ones steps of 256, which
    the K-quants want.
    """
    step = _K_QUANT if parent.hidden_size >= 8 * _K_QUANT else 64 if parent.hidden_size >= 256 else 32
    layers = parent.num_hidden_layers
    depths = tuple(range(max(1, layers // 2), layers + 1)) if pruning.depth else (layers,)
    space = SearchSpace(hidden_step=step, intermediate_step=step, layers=depths)
    found = enumerate_candidates(parent, parameters=pruning.parameters, space=space, limit=pruning.candidates)
    return [candidate.config for candidate in found]


def cut(
    parent: LoadedModel, importance: Importance, shape: NemotronConfig, *, aggregation: Aggregation
) -> tuple[Mapping[str, Tensor], NemotronConfig]:
    """Cut a model to a shape: the least important layers first, then heads, neurons and channels."""
    config = parent.config
    layers = choose_layers(importance.layers, keep=shape.num_hidden_layers)
    target = WidthTarget(
        hidden_size=shape.hidden_size if shape.hidden_size != config.hidden_size else None,
        intermediate_size=shape.intermediate_size if shape.intermediate_size != config.intermediate_size else None,
        num_attention_heads=(
            shape.num_attention_heads if shape.num_attention_heads != config.num_attention_heads else None
        ),
    )
    order = order_by_importance(importance, config, aggregation=aggregation)
    narrow, narrow_config = prune_width(stored_tensors(parent), config, order, target)
    tensors, smaller = prune_depth(narrow, narrow_config, layers)
    return {name: tensors[name] for name in tensors}, smaller


def search(
    context: StageContext,
    recipe: MakeRecipe,
    *,
    data: Path,
    parent: LoadedModel,
    importance: Importance,
    objective: Callable[[NemotronConfig], Objective],
) -> None:
    """Try the candidates and keep the best: `candidates.json`, `candidates.png` and the model as it was cut.

    Args:
        context: of the stage.
        recipe: with a [pruning] and a [distillation].
        data: folder of the corpora.
        parent: the teacher.
        importance: of the teacher.
        objective: makes the loss for a student of a shape.
    """
    pruning, part = recipe.pruning, recipe.distillation
    assert pruning is not None
    aggregation = pruning.aggregation()
    shapes = candidate_shapes(parent.config, pruning)
    if part is None or not part.has_stages:
        shapes = shapes[:1]  # nothing to rank them by: the nearest to the teacher's proportions
    tried = []
    for number, shape in enumerate(shapes, 1):
        folder = context.work / f"candidate-{number}"
        if not (folder / MODEL / "config.json").exists():
            tensors, config = cut(parent, importance, shape, aggregation=aggregation)
            write_folder(folder / MODEL, config, tensors, parent.tokenizer, chat_template=parent.chat_template)
        if len(shapes) == 1 or part is None:
            tried.append(_Tried(number=number, config=shape, bits_per_byte=0.0, loss=0.0))
            continue
        training = _brief(recipe.training(part, name=f"candidate-{number}", model=shape), pruning.candidate_steps)
        tried.append(_distil(context, training, number, len(shapes), data, folder, objective(shape)))
    best = min(tried, key=lambda one: one.bits_per_byte)
    context.report(
        f"chosen: candidate {best.number} of {len(tried)}, {best.config.num_hidden_layers} layers, "
        f"{best.config.hidden_size} channels, {best.config.intermediate_size} neurons, "
        f"{best.config.num_attention_heads} heads"
    )
    chosen = load_model(context.work / f"candidate-{best.number}" / MODEL)
    tensors = {name: torch.from_numpy(weight.dense()) for name, weight in chosen.weights.items()}
    write_folder(context.folder / MODEL, chosen.config, tensors, chosen.tokenizer, chat_template=parent.chat_template)
    rows = [one.row() for one in sorted(tried, key=lambda one: one.bits_per_byte)]
    write_json(context.folder / "candidates.json", {"chosen": best.number, "candidates": rows})
    _draw(tried, best, context.folder / "candidates.png")


def _distil(
    context: StageContext,
    training: Recipe,
    number: int,
    count: int,
    data: Path,
    folder: Path,
    objective: Objective,
) -> _Tried:
    """Distil a candidate briefly, or read what it came to before a stop."""
    result = folder / "result.json"
    if not result.exists():
        files = load_model(folder / MODEL)
        trainer = train_model(
            context,
            training,
            data=data,
            tokenizer=files.tokenizer,
            start=files,
            objective=objective,
            name=f"candidate-{number}/run",
            settings={"candidate": f"{number} of {count}"},
        )
        figures = trainer.evaluate()
        write_json(result, {"bits_per_byte": figures["bits_per_byte"], "loss": _last_loss(folder / "run")})
    figures = json.loads(result.read_text(encoding="utf-8"))
    return _Tried(number=number, config=training.model, **figures)


def _last_loss(run: Path) -> float:
    """The training loss of the last rows of a run's log."""
    _, values = read_figures(run / "losses.csv").get("loss", ([], []))
    last = values[-3:]
    return sum(last) / len(last) if last else 0.0


def _brief(training: Recipe, steps: int) -> Recipe:
    """The first stage alone, for so many steps; evaluated and saved at its end."""
    stage = dataclasses.replace(training.stages[0], steps=steps)
    return dataclasses.replace(training, stages=(stage,), evaluate_every=steps, checkpoint_every=max(1, steps // 4))


def _draw(tried: Sequence[_Tried], best: _Tried, target: Path) -> None:
    """Bits per byte of each candidate against its size, the chosen one marked."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for one in tried:
        mark = "*" if one is best else "o"
        axes.plot(one.config.num_parameters / 1e6, one.bits_per_byte, mark, markersize=14 if one is best else 8)
        label = f"{one.config.num_hidden_layers} x {one.config.hidden_size}, {one.config.intermediate_size}"
        axes.annotate(label, (one.config.num_parameters / 1e6, one.bits_per_byte), fontsize=8)
    axes.set(title="candidates after a brief distillation", xlabel="million parameters", ylabel="bits per byte")
    axes.grid(alpha=0.3)
    part = target.with_suffix(".part.png")
    figure.savefig(part, dpi=110)
    pyplot.close(figure)
    part.replace(target)
