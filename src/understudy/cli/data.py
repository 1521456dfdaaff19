"""`understudy data FOLDER`: what is there, from where, under which licence."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from understudy.errors import DataError

if TYPE_CHECKING:
    from understudy.data.catalogue import PublicSource

__all__ = ["data"]


def data(
    folder: Annotated[Path, typer.Argument(help="Folder of the corpora (see docs/training.md).")] = Path("data"),
    corpora: Annotated[list[str] | None, typer.Option("--only", help="A corpus; may be given again.")] = None,
    mirror: Annotated[str | None, typer.Option("--from", help="Web address that has the files; fetches them.")] = None,
) -> None:
    """Check the public corpora of a folder by their hashes, or fetch them."""
    from understudy.data.catalogue import public_sources

    chosen = [s for s in public_sources() if not corpora or set(corpora) & set(s.corpora)]
    unknown = set(corpora or ()) - {name for source in chosen for name in source.corpora}
    if unknown:
        known = ", ".join(sorted(name for source in public_sources() for name in source.corpora))
        raise DataError(f"There is no public corpus {', '.join(sorted(unknown))}; choose from {known}.")
    if mirror:
        _fetch(chosen, folder, mirror)
    table = Table("corpus", "documents", "licence", "repository", "commit", "state")
    missing = 0
    for source in chosen:
        state = _state(source, folder)
        missing += state != "ok"
        count = str(max(file.documents for file in source.files))
        commit = (source.commit or "many")[:10]
        table.add_row(", ".join(source.corpora), count, source.licence, source.repository, commit, state)
    Console().print(table)
    if missing:
        raise DataError(
            f"{missing} of {len(chosen)} sources are not whole in {folder}; fetch them: understudy data {folder} "
            "--from URL, or leave their corpora out of the recipe."
        )


def _fetch(sources: "list[PublicSource]", folder: Path, mirror: str) -> None:
    from understudy.data.catalogue import check_file, fetch_file

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        for file in (file for source in sources for file in source.files):
            task = bar.add_task(file.path, total=file.packed_bytes)
            try:
                check_file(file, folder)
                bar.update(task, completed=file.packed_bytes)
            except DataError:
                fetch_file(file, folder, mirror, lambda size, task=task: bar.advance(task, size))  # type: ignore[misc]


def _state(source: "PublicSource", folder: Path) -> str:
    from understudy.data.catalogue import check_file

    for file in source.files:
        try:
            check_file(file, folder)
        except DataError:
            return f"{'not the same' if (folder / file.path).exists() else 'missing'}: {file.path}"
    return "ok"
