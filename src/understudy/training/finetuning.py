"""Fine-tuning a model that is already there: its shape into the recipe, what was learnt into files."""

import dataclasses
from pathlib import Path

import torch

from understudy.errors import DataError
from understudy.model.checkpoint import LoadedModel
from understudy.prompt.chat_template import NEMOTRON_CHAT_TEMPLATE
from understudy.training.export import export_model, read_checkpoint, resolved_recipe
from understudy.training.lora import adapter_state, attach_lora, hash_weights, merge_lora, named_adapters
from understudy.training.lora_files import write_gguf_adapters, write_peft_folder
from understudy.training.model import NemotronLM, from_hf_tensors
from understudy.training.recipe import Recipe, parse_recipe, read_tables

__all__ = ["FinetunedFiles", "export_finetuned", "finetuning_recipe"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetunedFiles:
    """What fine-tuning ends with.

    Attributes:
        folder: Hugging Face folder of the whole model, adapters merged.
        gguf: the same as one file, F16.
        adapters: folder that `peft` reads; None without adapters.
        gguf_adapters: file that llama.cpp puts beside the base model; None without adapters.
    """

    folder: Path
    gguf: Path
    adapters: Path | None
    gguf_adapters: Path | None


def finetuning_recipe(path: Path, files: LoadedModel) -> Recipe:
    """Read a recipe; where it has no table [model], the shape is that of the model to begin with.

    Raises:
        RecipeError: missing file, not TOML, an unknown key or a value out of range.
    """
    return parse_recipe({"model": dataclasses.asdict(files.config), **read_tables(path)}, path)


def export_finetuned(recipe: Recipe, files: LoadedModel, run: Path) -> FinetunedFiles:
    """Write what a finished run learnt: adapters alone, if there are any, and the whole model.

    Args:
        recipe: what the run was started with.
        files: the model that it began with.
        run: the run's folder, which gets `NAME/`, `NAME.gguf`, `NAME-adapters/` and `NAME-adapters.gguf`.

    Raises:
        DataError: there is no finished checkpoint, it belongs to another model or recipe, or the disk refuses.
        ModelFileError: the GGUF cannot be written; all else is there.
    """
    state = read_checkpoint(run, step=recipe.total_steps)
    with torch.device("meta"):
        model = NemotronLM(recipe.model)
    model.to_empty(device="cpu")
    metadata = {"understudy.base": hash_weights(files)}
    adapters = gguf_adapters = None
    if recipe.lora:
        if state.get("base") != metadata["understudy.base"]:
            raise DataError(f"{run / 'checkpoint.pt'} holds adapters of another model than {files.path}.")
        from_hf_tensors(model, {name: torch.from_numpy(w.dense()) for name, w in files.weights.items()})
        attach_lora(model, recipe.lora)
    try:
        model.load_state_dict({**model.state_dict(), **state["model"]})
    except RuntimeError as error:
        raise DataError(f"{run / 'checkpoint.pt'} belongs to a model of another shape than the recipe's.") from error
    if recipe.lora:
        learnt = named_adapters(adapter_state(model))
        adapters, gguf_adapters = run / f"{recipe.name}-adapters", run / f"{recipe.name}-adapters.gguf"
        stated = {"understudy.recipe": resolved_recipe(recipe, state["step"]), **metadata}
        write_peft_folder(adapters, learnt, recipe.lora, base=str(files.path), metadata=stated)
        write_gguf_adapters(
            gguf_adapters, learnt, recipe.lora, metadata={"general.name": f"{recipe.name} adapters", **stated}
        )
        merge_lora(model)
    licence = files.metadata.get("general.license")
    folder, gguf = export_model(
        model,
        recipe,
        run,
        files.tokenizer,
        steps=state["step"],
        licence=licence if isinstance(licence, str) else None,
        chat_template=files.chat_template or NEMOTRON_CHAT_TEMPLATE,
        metadata=metadata,
    )
    return FinetunedFiles(folder=folder, gguf=gguf, adapters=adapters, gguf_adapters=gguf_adapters)
