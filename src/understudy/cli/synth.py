"""`understudy synth`: random weights of a published shape, to measure speed and memory."""

from pathlib import Path
from typing import Annotated

import typer

from understudy.errors import ModelFileError

__all__ = ["synth"]


def synth(
    file: Annotated[Path, typer.Argument(help="The GGUF file to write.")],
    shape: Annotated[str, typer.Option(help="nemotron-mini-4b, minitron-8b or nemotron-4-15b.")] = "nemotron-mini-4b",
    layers: Annotated[int | None, typer.Option(min=1, help="Fewer layers than the published model.")] = None,
    vocabulary: Annotated[int | None, typer.Option(min=1, help="So many token ids instead of 256,000.")] = None,
    kind: Annotated[str, typer.Option("--format", help="q4_0, q4_k, q4_k_q6_k, iq4_xs, q8_0, f16 or bf16.")] = "q4_k",
    zeros: Annotated[float, typer.Option(help="Share of MLP neurons that stay at zero; 4-bit formats only.")] = 0.5,
    tokenizer: Annotated[Path | None, typer.Option(help="A tokenizer.json; default: one that spells bytes.")] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same file.")] = 0,
) -> None:
    """Write random weights of a published model's shape, for benchmarks where the real ones are not at hand."""
    import dataclasses

    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from understudy.model.mapped_file import read_json_object
    from understudy.model.published import PUBLISHED_SHAPES
    from understudy.model.synthetic import write_synthetic
    from understudy.prompt import MARKERS
    from understudy.tokenizer.byte_level import byte_level_definition

    if shape not in PUBLISHED_SHAPES:
        raise ModelFileError(f"There is no published shape {shape!r}; choose from {', '.join(PUBLISHED_SHAPES)}.")
    published = PUBLISHED_SHAPES[shape]
    config = dataclasses.replace(
        published,
        num_hidden_layers=layers or published.num_hidden_layers,
        vocab_size=vocabulary or published.vocab_size,
    )
    specials = ("<pad>", "<unk>", "<s>", "</s>", *MARKERS)
    try:
        definition = (
            read_json_object(tokenizer) if tokenizer else byte_level_definition(specials, vocab_size=config.vocab_size)
        )
    except ValueError as error:
        raise ModelFileError(f"{error} Give a larger --vocabulary.") from error
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(f"{shape} {kind}", total=None)
        write_synthetic(
            file,
            config,
            definition,
            file_type=kind,
            zeros=zeros,
            seed=seed,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
