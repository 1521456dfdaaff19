"""A world's lore as a database: what each of its characters knows becomes who may know each passage."""

import hashlib
import json

from understudy.npc.world import LoreEntry, World
from understudy.retrieval.lore import Lore
from understudy.retrieval.passages import Document, Passage
from understudy.retrieval.scopes import read_name

__all__ = ["open_world_lore", "world_documents"]


def world_documents(world: World) -> tuple[Document, ...]:
    """One document an entry; `character=` of a search is a character's id.

    An entry that every character knows is public; characters without `knowledge` know all of them.
    """
    return tuple(_document(world, entry) for entry in world.lore)


def open_world_lore(world: World) -> Lore:
    """A world's lore in memory, found by words alone.

    Raises:
        LoreError: the world has none.
    """
    return Lore.from_documents(world_documents(world))


def _document(world: World, entry: LoreEntry) -> Document:
    knowing = [card for card in world.characters if not card.knowledge or entry.id in card.knowledge]
    is_public = len(knowing) == len(world.characters)
    names = sorted(read_name(card.id or card.name) for card in knowing)
    known_to = None if is_public else frozenset(names)
    passage = Passage(id=entry.id, title=entry.title, text=entry.text, keys=entry.keys, known_to=known_to)
    content = json.dumps([entry.id, entry.title, entry.keys, entry.text, is_public, names])
    return Document(
        name=f"{world.id}/{entry.id}",
        digest=hashlib.sha256(content.encode()).hexdigest(),
        read=lambda: [passage],
    )
