"""`understudy lore`: build and search the database of what characters know."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from understudy.retrieval import Document, Embedder, Lore

__all__ = ["build", "lore", "search", "stats"]

lore = typer.Typer(help="What characters know: build and search it.", no_args_is_help=True)

_Out = Annotated[Path, typer.Option(help="The database; an old one is brought up to date.")]
_Database = Annotated[Path | None, typer.Option(help="The database; default: the lore of Harrowmere.")]


@lore.command()
def build(
    folder: Annotated[
        Path | None,
        typer.Argument(help="Folder with .md, .txt, .json or .csv, or a world's folder; default: Harrowmere."),
    ] = None,
    out: _Out = Path("lore.db"),
    embedder: Annotated[
        str, typer.Option(help="none (words alone), http://HOST:PORT/v1#MODEL, or a sentence-transformers folder.")
    ] = "none",
    max_words: Annotated[int, typer.Option(min=20, help="Longest passage, in words.")] = 160,
) -> None:
    """Make a database of a lore folder, or bring it up to date."""
    from understudy.retrieval import build_lore

    console = _console()
    documents, skipped = _documents(folder, max_words)
    opened = _open_embedder(embedder)
    with _progress() as bar:
        tasks = {name: bar.add_task(name, total=None, visible=False) for name in ("reading", "embedding", "writing")}

        def tell(what: str, done: int, total: int) -> None:
            bar.update(tasks[what], completed=done, total=total, visible=total > 0)

        report = build_lore(out, documents, embedder=opened, embedder_spec=embedder, on_progress=tell)
    for name, why in skipped:
        console.print(f"skipped {name}: it {why}")
    console.print(
        f"{out}: {report.num_passages} passages of {report.num_documents} documents; "
        f"{report.num_read} read, {report.num_removed} removed, {report.num_embedded} embedded"
    )


@lore.command()
def search(
    query: Annotated[str, typer.Argument(help="What a player might ask.")],
    database: _Database = None,
    character: Annotated[str, typer.Option(help="Only what this one may know; default: everything.")] = "*",
    limit: Annotated[int, typer.Option(min=1, max=50, help="Most passages.")] = 4,
    min_score: Annotated[float | None, typer.Option(help="Least score of words; 0 shows near misses.")] = None,
    embedder: Annotated[str, typer.Option(help="As for build; default: the one that it was built with.")] = "",
) -> None:
    """Show the passages that a character would be given for a line, best first."""
    from understudy.retrieval.lore import MIN_SCORE

    console = _console()
    with _open(database, embedder) as opened:
        least = MIN_SCORE if min_score is None else min_score
        found = opened.search(query, character=character, limit=limit, min_score=least)
    for one in found:
        console.print(f"{one.id}  {one.title}  ({one.reason}; {one.document}, line {one.line})", style="bold")
        console.print(f"{one.text}\n")
    if not found:
        console.print("Nothing answers this: the character would be given no lore. --min-score 0 shows near misses.")


@lore.command()
def stats(database: _Database = None) -> None:
    """Say what a database holds, and who may know how much of it."""
    from rich.table import Table

    console = _console()
    with _open(database, "none") as opened:
        held = opened.stats()
    table = Table(box=None, show_header=False)
    table.add_row("documents", str(held.num_documents))
    table.add_row("passages", str(held.num_passages))
    table.add_row("known to everybody", str(held.num_public))
    for name, number in held.num_known_to.items():
        table.add_row(f"known to {name} beside", str(number))
    table.add_row("embedder", held.embedder or "none: words alone")
    table.add_row("size", f"{held.num_bytes / 1024:.0f} KiB" if held.num_bytes else "in memory")
    console.print(table)


def _documents(folder: Path | None, max_words: int) -> "tuple[tuple[Document, ...], tuple[tuple[str, str], ...]]":
    """The documents, and what was skipped."""
    if folder is not None and not (folder / "world.json").is_file():
        from understudy.retrieval import read_folder

        read = read_folder(folder, max_words=max_words)
        return read.documents, read.skipped
    from understudy.npc.world import default_world, load_world
    from understudy.npc.world_lore import world_documents

    return world_documents(load_world(folder) if folder else default_world()), ()


def _open(database: Path | None, embedder: str) -> "Lore":
    from understudy.retrieval import Lore

    if database is None:
        from understudy.npc.world import default_world
        from understudy.npc.world_lore import open_world_lore

        return open_world_lore(default_world())
    opened = Lore.open(database)
    spec = embedder or opened.stats().embedder_spec
    if spec in ("", "none"):
        return opened
    opened.close()
    return Lore.open(database, embedder=_open_embedder(spec))


def _open_embedder(spec: str) -> "Embedder | None":
    from understudy.retrieval import open_embedder

    return open_embedder(spec, api_key=os.environ.get("UNDERSTUDY_EMBEDDER_KEY") or None)


def _console() -> "Console":
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True)


@contextmanager
def _progress() -> "Iterator[Progress]":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield bar
