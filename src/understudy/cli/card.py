"""`understudy card`: look at a character card, convert it, or find what is wrong with it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from understudy.errors import CardError

if TYPE_CHECKING:
    from understudy.npc.card import Card

__all__ = ["card", "check", "convert", "show"]

_MAX_SHOWN = 400

card = typer.Typer(help="Look at a character card, convert it, or find what is wrong with it.", no_args_is_help=True)
_File = Annotated[Path, typer.Argument(metavar="card", help="A card: JSON, PNG or .charx.")]


@card.command()
def show(
    file: _File,
    language: Annotated[str, typer.Option(help="Of the creator's notes, e.g. de.")] = "en",
) -> None:
    """Show a card: who it is, its greetings, its lorebook, its files."""
    from understudy.npc.card import Card

    loaded = Card.load(file)
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, text in _rows(loaded, language):
        if text:
            table.add_row(Text(name, style="bold"), Text(_shortened(text)))
    console = _console()
    console.print(table)
    if loaded.lorebook and loaded.lorebook.entries:
        entries = Table("entry", "keys", "words", "order")
        for entry in loaded.lorebook.entries:
            keys = "constant" if entry.is_constant else ", ".join(entry.keys)
            name = entry.title or entry.id
            row = (name, keys, str(len(entry.content.split())), f"{entry.order:g}")
            entries.add_row(*(Text(_shortened(cell)) for cell in row), style=None if entry.is_enabled else "dim")
        console.print(entries)


@card.command()
def convert(
    file: _File,
    output: Annotated[Path, typer.Argument(help="The file to write, by its ending: .json, .png, .apng or .charx.")],
    to: Annotated[str, typer.Option(help="Version: v1, v2 or v3; default: as it is, for a .charx v3.")] = "",
    picture: Annotated[Path | None, typer.Option(help="A PNG portrait for the card.")] = None,
) -> None:
    """Write a card in another format or version; nothing that it says is lost."""
    import dataclasses

    from understudy.npc.card import Card
    from understudy.npc.document import read_file

    loaded = Card.load(file)
    if picture:
        content = read_file(picture, limit=32 << 20, source=f"The picture {picture}")
        loaded = dataclasses.replace(loaded, picture=content)
    loaded.save(output, version=to.lower() or None)  # type: ignore[arg-type]  # the library checks it
    written = Card.load(output)
    print(f"{output}: {written.name}, {written.version.upper()}")
    if output.suffix.lower() == ".json" and (loaded.picture or loaded.files):
        print("JSON holds neither the picture nor other files; keep the old card, or write a .charx.")


@card.command()
def check(
    files: Annotated[list[Path], typer.Argument(metavar="cards...", help="Cards (JSON, PNG, .charx) and lorebooks.")],
) -> None:
    """Tell what is wrong with cards and lorebooks and how to mend it; fails if something is."""
    from understudy.npc.card_check import check_file

    console = _console()
    num_wrong = 0
    for file in files:
        try:
            problems = check_file(file)
        except CardError as error:
            console.print(Text(str(error), style="red"))
            num_wrong += 1
            continue
        num_wrong += bool(problems)
        if not problems:
            console.print(Text(f"{file}: nothing found."))
            continue
        table = Table("where", "problem", "mend", title=Text(str(file)), title_justify="left")
        for problem in problems:
            table.add_row(Text(problem.where), Text(problem.text), Text(problem.mend))
        console.print(table)
    if num_wrong:
        raise CardError(f"{num_wrong} of {len(files)} files have problems; see above.")


def _rows(card: "Card", language: str) -> list[tuple[str, str]]:
    greetings = [*card.greetings(), *card.group_only_greetings]
    assets = [f"{asset.type} {asset.name} ({_shortened(asset.uri, 40)})" for asset in card.assets]
    return [
        ("name", card.name + (f" ({card.nickname})" if card.nickname else "")),
        ("format", f"{card.version.upper()}, picture" if card.picture else card.version.upper()),
        ("role", card.role),
        ("description", card.description),
        ("personality", card.personality),
        ("speech", card.speech_style),
        ("scenario", card.scenario),
        *((f"greeting {number}", text) for number, text in enumerate(greetings)),
        ("tools", ", ".join(card.tools)),
        ("tags", ", ".join(card.tags)),
        ("creator", " ".join(filter(None, (card.creator, card.character_version)))),
        ("notes", card.notes(language)),
        ("assets", ", ".join(assets) if card.raw and card.version == "v3" else ""),
        ("files", ", ".join(f"{name} ({len(data)} bytes)" for name, data in sorted(card.files.items()))),
        ("extensions", ", ".join(card.extensions)),
    ]


def _shortened(text: str, limit: int = _MAX_SHOWN) -> str:
    return text if len(text) <= limit else f"{text[:limit]} ..."


def _console() -> Console:
    return Console(highlight=False, markup=False, emoji=False)
