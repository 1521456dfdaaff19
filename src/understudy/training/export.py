"""A trained model as files that others read: a Hugging Face folder and a GGUF."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from understudy.errors import DataError
from understudy.model.gguf_writer import write_gguf
from understudy.prompt.chat_template import NEMOTRON_CHAT_TEMPLATE
from understudy.tokenizer import Tokenizer
from understudy.training.folder import write_folder
from understudy.training.model import NemotronLM, to_hf_tensors
from understudy.training.recipe import Recipe

__all__ = ["export_model", "export_run", "read_checkpoint", "resolved_recipe"]


def export_run(recipe: Recipe, run: Path, *, step: int | None = None) -> tuple[Path, Path]:
    """Write `run/NAME/` (safetensors, float32) and `run/NAME.gguf` (F16) from the run's checkpoint.

    The resolved recipe goes into both, so that a file tells how it was made.

    Args:
        recipe: what the run was started with.
        run: the run's folder.
        step: refuse a checkpoint of another step.

    Returns:
        The folder and the GGUF file.

    Raises:
        DataError: there is no checkpoint, or it is of another recipe or step.
    """
    state = read_checkpoint(run, step=step)
    model = NemotronLM(recipe.model)
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        raise DataError(f"{run / 'checkpoint.pt'} belongs to a model of another shape than the recipe's.") from error
    tokenizer = Tokenizer.from_file(run / "tokenizer.json")
    return export_model(
        model, recipe, run, tokenizer, steps=state["step"], licence="apache-2.0", chat_template=NEMOTRON_CHAT_TEMPLATE
    )


def read_checkpoint(run: Path, *, step: int | None = None) -> dict[str, Any]:
    """The state that the trainer saved last, on the CPU.

    Raises:
        DataError: there is none, or it is of another step than asked for.
    """
    checkpoint = run / "checkpoint.pt"
    if not checkpoint.exists():
        raise DataError(f"{checkpoint} is missing; train first: understudy train RECIPE.")
    state: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)
    if step is not None and state["step"] != step:
        raise DataError(f"{checkpoint} stands at step {state['step']}, not {step}; train on to export the end.")
    return state


def resolved_recipe(recipe: Recipe, steps: int) -> str:
    """The recipe with all its defaults, as JSON; not where on this machine it was run."""
    resolved = {**dataclasses.asdict(recipe), "trained_steps": steps}
    del resolved["output"]
    return json.dumps(resolved, sort_keys=True, default=dict)


def export_model(
    model: NemotronLM,
    recipe: Recipe,
    run: Path,
    tokenizer: Tokenizer,
    *,
    steps: int,
    licence: str | None,
    chat_template: str,
    metadata: Mapping[str, str] | None = None,
) -> tuple[Path, Path]:
    """Write `run/NAME/` (safetensors, float32) and `run/NAME.gguf` (F16) of a model.

    Args:
        model: what was trained, on the CPU.
        recipe: how; its name is the files'.
        run: the run's folder.
        tokenizer: the model's.
        steps: that it was trained for.
        licence: of the weights, if it is known.
        chat_template: Jinja template for other programs.
        metadata: further keys for both.

    Returns:
        The folder and the GGUF file.

    Raises:
        DataError: the disk refuses.
        ModelFileError: the GGUF cannot be written; the folder is there.
    """
    tensors = to_hf_tensors(model)
    stated = {"understudy.recipe": resolved_recipe(recipe, steps), **(metadata or {})}
    folder, gguf = run / recipe.name, run / f"{recipe.name}.gguf"
    write_folder(folder, recipe.model, tensors, tokenizer, chat_template=chat_template, metadata=stated)
    write_gguf(
        gguf,
        recipe.model,
        {name: tensor.numpy() for name, tensor in tensors.items()},
        tokenizer.definition,
        chat_template,
        file_type="f16",
        metadata={
            "general.name": recipe.name,
            **({"general.license": licence} if licence else {}),
            "general.languages": ["en"],
            **stated,
        },
    )
    return folder, gguf
