"""`understudy plan`: what a model will take of a GPU's memory, before anything is loaded."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from understudy.errors import ModelFileError

if TYPE_CHECKING:
    from understudy.kernels.formats import StorageType
    from understudy.model.config import NemotronConfig

__all__ = ["plan"]

_SYNTHETIC = "synth:"


def plan(
    model: Annotated[
        str | None, typer.Option(help="GGUF file, Hugging Face folder or synth:SHAPE; default: Harrow.")
    ] = None,
    gpu_memory: Annotated[str | None, typer.Option(help="Cap of what wgpu takes of the GPU, e.g. 2GiB.")] = None,
    context: Annotated[int | None, typer.Option(min=1, help="Tokens of all sequences; default: the context.")] = None,
    kind: Annotated[
        str, typer.Option("--format", help="Of synth:SHAPE: q4_0, q4_k, q4_k_q6_k, q8_0, iq4_xs.")
    ] = "q4_k",
) -> None:
    """Tell what a model takes of a GPU's memory: weights, keys and values, scratch, and what stays on the CPU."""
    from rich.console import Console
    from rich.table import Table

    from understudy.model.tensor_names import expected_shapes
    from understudy.model.wgpu_plan import plan_gpu
    from understudy.quantization.plan import parse_bytes

    config, kinds = _described(model, kind)
    budget = None if gpu_memory is None else parse_bytes(gpu_memory)
    tokens = context or config.max_position_embeddings
    made, _ = plan_gpu(config, kinds, expected_shapes(config), budget_bytes=budget, cache_tokens=tokens)
    table = Table(show_header=False, box=None)
    for name, value in made.lines().items():
        table.add_row(name, value)
    Console(highlight=False).print(table)


def _described(model: str | None, kind: str) -> "tuple[NemotronConfig, dict[str, StorageType]]":
    """A model's shape and its tensors' formats."""
    from understudy.kernels.formats import StorageType
    from understudy.model.checkpoint import load_model
    from understudy.model.embedded import embedded_model_path
    from understudy.model.published import PUBLISHED_SHAPES
    from understudy.model.synthetic import SYNTHETIC_TYPES
    from understudy.model.tensor_names import expected_shapes

    if model is None or not model.startswith(_SYNTHETIC):
        files = load_model(Path(model) if model else embedded_model_path())
        return files.config, {name: weight.kind for name, weight in files.weights.items()}
    shape = model.removeprefix(_SYNTHETIC)
    if shape not in PUBLISHED_SHAPES:
        raise ModelFileError(f"There is no published shape {shape!r}; choose from {', '.join(PUBLISHED_SHAPES)}.")
    if kind not in SYNTHETIC_TYPES:
        raise ModelFileError(f"There is no format {kind!r}; choose from {', '.join(SYNTHETIC_TYPES)}.")
    layers, head, table, _ = SYNTHETIC_TYPES[kind]
    special = {"lm_head.weight": head, "model.embed_tokens.weight": table}
    config = dataclasses.replace(PUBLISHED_SHAPES[shape], tie_word_embeddings=False)
    return config, {
        name: StorageType.F32 if len(size) == 1 else special.get(name, layers)
        for name, size in expected_shapes(config).items()
    }
