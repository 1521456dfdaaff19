"""`understudy key`: API keys for the server."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["key", "new"]

key = typer.Typer(help="Make API keys for the server.", no_args_is_help=True)


@key.callback()
def _group() -> None:
    """Make API keys for the server."""


@key.command()
def new(
    name: Annotated[str, typer.Argument(help="Whose key it is; the log tells it.")],
    file: Annotated[Path, typer.Option(help="Where its hash is kept; made if it is not there.")] = Path("keys.toml"),
    requests_per_minute: Annotated[int | None, typer.Option(min=1, help="Its limit; default: none.")] = None,
    max_concurrent: Annotated[int | None, typer.Option(min=1, help="Answers at a time; default: no limit.")] = None,
    may_reload: Annotated[bool, typer.Option("--may-reload", help="It may have models read anew.")] = False,
) -> None:
    """Make a key, show it once, and keep its hash."""
    from understudy.server import write_new_key

    made = write_new_key(
        file, name, requests_per_minute=requests_per_minute, max_concurrent=max_concurrent, may_reload=may_reload
    )
    typer.echo(made)
    typer.echo(
        f"This is the only time the key is shown; {file} keeps its hash: understudy serve --keys {file}", err=True
    )
