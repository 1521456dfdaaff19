"""A game's world: its lore, its characters and their functions, read from a folder of three JSON files."""

import dataclasses
import importlib.resources
import json
from collections.abc import Mapping
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from understudy.errors import CardError, PromptError
from understudy.npc.card import Card
from understudy.prompt.template import tool_function

__all__ = ["LoreEntry", "World", "default_world", "load_world"]

_MAX_BYTES = 16 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoreEntry:
    """A passage of lore.

    Attributes:
        id: short name within the world.
        title: heading.
        keys: words and phrases that call it up.
        text: what the model is shown.
    """

    id: str
    title: str
    keys: tuple[str, ...]
    text: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
    """What a folder holds.

    Attributes:
        id: short name.
        name: full name.
        genre: e.g. "low fantasy".
        summary: a paragraph for people.
        lore: passages, in the author's order.
        characters: cards, in the author's order; never empty.
        tools: OpenAI function schemas.
    """

    id: str
    name: str
    genre: str = ""
    summary: str = ""
    lore: tuple[LoreEntry, ...] = ()
    characters: tuple[Card, ...]
    tools: tuple[Mapping[str, Any], ...] = ()


def default_world() -> World:
    """The sample world inside the package: the river town of Harrowmere."""
    return _load(importlib.resources.files("understudy.npc") / "harrowmere")


def load_world(folder: Path) -> World:
    """Read `world.json`, `characters.json` and `tools.json`.

    Raises:
        CardError: a file is missing or wrong; the text names the file and the mend.
    """
    if not folder.is_dir():
        raise CardError(
            f"There is no world folder {folder}. Give a folder with world.json, characters.json and tools.json."
        )
    return _load(folder)


def _load(folder: Traversable) -> World:
    head, head_source = _read(folder, "world.json", dict)
    lore = tuple(_lore_entry(e, f'{head_source}: entry {n} of "lore"') for n, e in enumerate(_list(head, head_source)))
    _check_unique([entry.id for entry in lore], f"{head_source}: lore id")
    tools, tools_source = _read(folder, "tools.json", list)
    tool_names = [_tool_name(tool, f"{tools_source}: entry {n}") for n, tool in enumerate(tools)]
    _check_unique(tool_names, f"{tools_source}: function")
    entries, cards_source = _read(folder, "characters.json", list)
    characters = tuple(Card.from_json(e, source=f"{cards_source}: entry {n}") for n, e in enumerate(entries))
    if not characters:
        raise CardError(f"{cards_source} has no characters. Add at least one.")
    _check_unique([card.id or card.name for card in characters], f"{cards_source}: character")
    for card in characters:
        _check_known(card.knowledge, {e.id for e in lore}, f"{cards_source}: {card.name} knows", "world.json")
        _check_known(card.tools, set(tool_names), f"{cards_source}: {card.name} may call", "tools.json")
    return World(
        id=_text(head, "id", head_source, is_required=True),
        name=_text(head, "name", head_source, is_required=True),
        genre=_text(head, "genre", head_source),
        summary=_text(head, "summary", head_source),
        lore=lore,
        characters=characters,
        tools=tuple(tools),
    )


def _read(folder: Traversable, name: str, kind: type) -> tuple[Any, str]:
    source = str(folder / name)
    try:
        with (folder / name).open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except FileNotFoundError as error:
        mend = "Write [] into it if there are none." if name == "tools.json" else "Add it to the folder."
        raise CardError(f"{source} is missing. {mend}") from error
    except OSError as error:
        raise CardError(f"{source} cannot be read: {error.strerror}.") from error
    if len(content) > _MAX_BYTES:
        raise CardError(f"{source} is larger than 16 MiB. Divide the world.")
    try:
        value = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise CardError(f"{source} is no valid JSON: {error}. Mend it there.") from error
    if not isinstance(value, kind):
        raise CardError(f"{source} must hold {'an object {...}' if kind is dict else 'a list [...]'}.")
    return value, source


def _text(value: Mapping[str, Any], key: str, source: str, *, is_required: bool = False) -> str:
    text = value.get(key, "")
    if not isinstance(text, str) or (is_required and not text.strip()):
        raise CardError(f'{source} needs "{key}": a text.')
    return text


def _list(head: Mapping[str, Any], source: str) -> list[Any]:
    lore = head.get("lore", [])
    if not isinstance(lore, list):
        raise CardError(f'{source}: "lore" must be a list of entries.')
    return lore


def _lore_entry(value: Any, source: str) -> LoreEntry:
    if not isinstance(value, dict):
        raise CardError(f"{source} must be an object with id, title, keys and text.")
    keys = value.get("keys", [])
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise CardError(f'{source}: "keys" must be a list of texts.')
    return LoreEntry(
        id=_text(value, "id", source, is_required=True),
        title=_text(value, "title", source),
        keys=tuple(keys),
        text=_text(value, "text", source, is_required=True),
    )


def _tool_name(tool: Any, source: str) -> str:
    try:
        name = tool_function(tool)["name"] if isinstance(tool, dict) else None
    except PromptError as error:
        raise CardError(f"{source}: {error}") from error
    if not isinstance(name, str):
        raise CardError(f"{source} must be a function's schema: an object.")
    return name


def _check_unique(names: list[str], what: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise CardError(f"{what} {name!r} comes twice. Rename one.")


def _check_known(names: tuple[str, ...], known: set[str], what: str, file: str) -> None:
    for name in names:
        if name not in known:
            raise CardError(f"{what} {name!r}, which is not in {file}. Add it there, or take it out here.")
