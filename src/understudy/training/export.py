"""A trained run as files that others read: a Hugging Face folder and a GGUF."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch

from understudy.errors import DataError
from understudy.model.gguf_writer import write_gguf
from understudy.prompt.chat_template import NEMOTRON_CHAT_TEMPLATE
from understudy.tokenizer import Tokenizer
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
    _write_folder(folder, recipe, tensors, tokenizer, resolved)
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


def _write_folder(
    folder: Path, recipe: Recipe, tensors: dict[str, torch.Tensor], tokenizer: Tokenizer, resolved: str
) -> None:
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    part = folder / "model.safetensors.part"
    save_file(tensors, part, metadata={"format": "pt", "understudy.recipe": resolved})
    part.replace(folder / "model.safetensors")
    config = recipe.model
    names = {token_id: text for text, token_id in tokenizer.specials.items()}
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": names.get(config.bos_token_id),
        "eos_token": names.get(config.eos_token_id),
        "pad_token": names.get(config.pad_token_id or 0),
        "add_bos_token": False,
        "model_max_length": config.max_position_embeddings,
    }
    _write_json(folder / "config.json", config.to_hf())
    _write_json(folder / "tokenizer.json", tokenizer.definition)
    _write_json(folder / "tokenizer_config.json", tokenizer_config)
    (folder / "chat_template.jinja").write_text(NEMOTRON_CHAT_TEMPLATE, encoding="utf-8")


def _write_json(path: Path, value: Any) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")
    part.replace(path)
