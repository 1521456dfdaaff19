"""`understudy pull OWNER/NAME` and `understudy models`: models from the Hugging Face hub, and which are here."""

from typing import Annotated

import typer

__all__ = ["models", "pull"]


def pull(
    repo: Annotated[str, typer.Argument(help="OWNER/NAME on the hub, e.g. nvidia/Nemotron-Mini-4B-Instruct.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit; default: main.")] = None,
    file: Annotated[str | None, typer.Option(help="Which GGUF file, where there are several.")] = None,
) -> None:
    """Download a model and check it; run it again to fetch what is missing. Honours HF_ENDPOINT, HF_TOKEN, HF_HOME."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from understudy.model.hub import pull as fetch

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as bars:
        tasks = {}

        def show(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total)
            bars.update(tasks[name], completed=done)

        model = fetch(repo, revision=revision, file=file, progress=show)
    print(model.path)
    what = model.path if file else model.name
    console.print("\nTalk to it, serve it, or make it small:", style="dim")
    console.print(
        f"  understudy chat --model {what}\n  understudy serve --model {what}", highlight=False, soft_wrap=True
    )
    if model.path.is_dir():
        small = f"{model.path.parent.parent.name.rpartition('--')[2].lower()}.gguf"
        console.print(f"  understudy quantize {what} {small} --memory 2.2GB", highlight=False, soft_wrap=True)


def models() -> None:
    """List the models that are here: the embedded one, and those that were pulled."""
    from rich.console import Console
    from rich.table import Table

    from understudy.model.embedded import embedded_model_path
    from understudy.model.hub import CachedModel, cached_models

    path = embedded_model_path()
    table = Table("model", "size", "where", box=None, pad_edge=False)
    for one in (CachedModel(name="(default)", path=path, num_bytes=path.stat().st_size), *cached_models()):
        table.add_row(one.name, f"{one.num_bytes / 1e6:,.0f} MB", str(one.path))
    Console(soft_wrap=True).print(table)
