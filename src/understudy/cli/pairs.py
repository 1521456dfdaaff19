"""`understudy pairs`: a model's own mistakes as pairs of answers, for a recipe with a table [preference]."""

from pathlib import Path
from typing import Annotated

import typer

from understudy.errors import RecipeError

__all__ = ["pairs"]


def pairs(
    output: Annotated[Path, typer.Argument(help="The JSON-lines file to write.")],
    model: Annotated[Path | None, typer.Option(help="GGUF file or Hugging Face folder; default: Harrow.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the corpora, for --corpora and --own.")] = None,
    corpora: Annotated[str, typer.Option(help="Corpora of dialogues to ask from too, comma-separated.")] = "",
    own: Annotated[str, typer.Option(help="Your own dialogues in that folder, comma-separated JSON-lines files.")] = "",
    written_share: Annotated[float, typer.Option(min=0, max=1, help="Of the lines, from those dialogues.")] = 0.4,
    count: Annotated[int, typer.Option(min=1, help="Lines to ask; wrong answers become pairs.")] = 10_000,
    samples: Annotated[int, typer.Option(min=1, max=64, help="Answers to each line.")] = 5,
    max_prompt_tokens: Annotated[int, typer.Option(min=16, help="Longer prompts are passed over.")] = 420,
    seed: Annotated[int, typer.Option(help="Of the lines and the draws.")] = 0,
) -> None:
    """Let a model answer lines whose truth is known; each wrong answer beside a right one is a pair to learn from."""
    import json
    import random
    from itertools import islice

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from understudy.data.dialogue_files import read_dialogue_file
    from understudy.data.sources import read_dialogues
    from understudy.npc.model import Model
    from understudy.pipeline.pairs import make_pairs, mixed_lines

    named, files = ([part.strip() for part in text.split(",") if part.strip()] for text in (corpora, own))
    if (named or files) and data is None:
        raise RecipeError("--corpora and --own need the folder that they lie in: --data FOLDER.")
    folder = data or Path()
    records = [record for name in named for record in read_dialogues(name, folder)]
    records += [record for name in files for record in read_dialogue_file(name, folder)]
    lines = mixed_lines(records, seed=seed, written_share=written_share if records else 0.0)
    console, part, made = Console(stderr=True), output.with_name(output.name + ".part"), 0
    columns = (TextColumn("asking"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[made]} pairs"))
    output.parent.mkdir(parents=True, exist_ok=True)
    with Model.load(model) as loaded, part.open("w", encoding="utf-8") as file:
        asked = islice(
            make_pairs(loaded, lines, rng=random.Random(seed), samples=samples, max_prompt_tokens=max_prompt_tokens),
            count,
        )
        with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
            task = bar.add_task("", total=count, made=0)
            for pair in asked:
                if pair is not None:
                    file.write(json.dumps(pair, ensure_ascii=False) + "\n")
                    made += 1
                bar.update(task, advance=1, made=made)
    part.replace(output)
    console.print(f"wrote {output}: {made} pairs of {count} lines", highlight=False)
