"""`understudy memory`: see and change what characters remember of players."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from understudy.npc.memory import Memory

__all__ = ["delete", "edit", "export", "list_facts", "memory"]

memory = typer.Typer(help="What characters remember of players: list, edit, delete, export.", no_args_is_help=True)

_File = Annotated[Path, typer.Argument(help="The file that the game keeps memories in.")]
_Number = Annotated[int, typer.Argument(help="Number of the fact, as `list` shows it.")]
_Player = Annotated[str | None, typer.Option(help="Only of this player.")]
_Character = Annotated[str | None, typer.Option(help="Only what this character remembers.")]


@memory.command("list")
def list_facts(file: _File, player: _Player = None, character: _Character = None) -> None:
    """Show the facts, oldest first."""
    from rich.console import Console
    from rich.table import Table

    with _open(file, read_only=True) as opened:
        found = opened.facts(player, character)
    table = Table("number", "player", "character", "kind", "text", box=None)
    for fact in found:
        text = f'"{fact.text}"' if fact.is_quote else fact.text
        table.add_row(str(fact.id), fact.player, fact.character, fact.kind, text)
    Console(highlight=False, markup=False, emoji=False).print(table if found else "Nothing is remembered.")


@memory.command()
def edit(file: _File, number: _Number, text: Annotated[str, typer.Argument(help="The new words.")]) -> None:
    """Put other words in a fact's place; they are the game's from then on, not a quotation."""
    with _open(file) as opened:
        typer.echo(f"{number}: {opened.edit(number, text).text}")


@memory.command()
def delete(file: _File, number: _Number) -> None:
    """Forget a fact."""
    with _open(file) as opened:
        opened.delete(number)
    typer.echo(f"{number}: forgotten")


@memory.command()
def export(file: _File, player: _Player = None, character: _Character = None) -> None:
    """Print the facts as JSON."""
    with _open(file, read_only=True) as opened:
        typer.echo(json.dumps(opened.export(player, character), ensure_ascii=False, indent=1))


def _open(file: Path, *, read_only: bool = False) -> "Memory":
    from understudy.npc.memory import Memory

    if not file.is_file():
        raise typer.BadParameter(f"there is no file {file}")
    return Memory.open(file, create=False, read_only=read_only)
