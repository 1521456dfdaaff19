"""A trained run as files that others read: a Hugging Face folder and a GGUF."""

import dataclasses
import json
from pathlib import Path

import torch

from understudy.errors import DataError
from understudy.model.gguf_writer import write_gguf
from understudy.prompt.chat_template import NEMOTRON_CHAT_TEMPLATE
from understudy.tokenizer import Tokenizer
from understudy.training.folder import write_folder
from understudy.training.model import NemotronLM, to_hf_tensors
from understudy.training.recipe import Recipe

__all__ = ["export_run"]


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
    checkpoint = run / "checkpoint.pt"
    if not checkpoint.exists():
        raise DataError(f"{checkpoint} is missing; train first: understudy train RECIPE.")
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    if step is not None and state["step"] != step:
        raise DataError(f"{checkpoint} stands at step {state['step']}, not {step}; train on to export the end.")
    model = NemotronLM(recipe.model)
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        raise DataError(f"{checkpoint} belongs to a model of another shape than the recipe's.") from error
    tokenizer = Tokenizer.from_file(run / "tokenizer.json")
    tensors = to_hf_tensors(model)
    resolved = json.dumps({**dataclasses.asdict(recipe), "trained_steps": state["step"]}, sort_keys=True, default=dict)
    folder, gguf = run / recipe.name, run / f"{recipe.name}.gguf"
    write_folder(folder, recipe.model, tensors, tokenizer, metadata={"understudy.recipe": resolved})
    write_gguf(
        gguf,
        recipe.model,
        {name: tensor.numpy() for name, tensor in tensors.items()},
        tokenizer.definition,
        NEMOTRON_CHAT_TEMPLATE,
        file_type="f16",
        metadata={
            "general.name": recipe.name,
            "general.license": "apache-2.0",
            "general.languages": ["en"],
            "understudy.recipe": resolved,
        },
    )
    return folder, gguf
