"""`understudy average MODEL MODEL ...`: the mean of models that began as one."""

import hashlib
import json
from pathlib import Path
from typing import Annotated

import typer

from understudy.errors import ModelFileError

__all__ = ["average"]

_KEPT = ("general.name", "general.license", "general.languages", "understudy.recipe")


def average(
    models: Annotated[list[Path], typer.Argument(help="GGUF files or Hugging Face folders, two or more.")],
    output: Annotated[Path, typer.Option(help="The GGUF file to write, 16 bits.")],
    shares: Annotated[str | None, typer.Option(help="Comma-separated, sum 1; default: equal.")] = None,
) -> None:
    """Average the weights of models that were trained from the same start; the last one gives name and licence."""
    from understudy.model.average import AveragedTensors
    from understudy.model.checkpoint import load_model
    from understudy.model.gguf_writer import write_gguf

    try:
        parts = [float(share) for share in shares.split(",")] if shares else None
    except ValueError as error:
        raise ModelFileError(f"--shares {shares}: give numbers such as 0.5,0.5.") from error
    files = [load_model(path) for path in models]
    tensors = AveragedTensors(files, parts)
    last = files[-1]
    made = [{"file": path.name, "sha256": _hash(path)} for path in models if path.is_file()]
    told = {key: last.metadata[key] for key in _KEPT if key in last.metadata}
    write_gguf(
        output,
        last.config,
        tensors,
        last.tokenizer.definition,
        last.chat_template,
        file_type="f16",
        metadata={**told, "understudy.average": json.dumps({"of": made, "shares": parts or "equal"})},
    )
    typer.echo(f"wrote {output}", err=True)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
