"""From a request to a character: its card or its saved session, and what it has beside that."""

import asyncio
import base64
import binascii
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from understudy.errors import CardError, SaveError, UnderstudyError
from understudy.npc.card import Card
from understudy.npc.card_file import parse_card_file
from understudy.npc.lorebook import Lorebook
from understudy.npc.model import Model
from understudy.npc.session import Session
from understudy.npc.state import RandomState, load_document, load_state
from understudy.npc.world import World
from understudy.server.hosted import HostedNpc
from understudy.server.npc_character import known_card
from understudy.server.npc_memory import MAX_FACTS, player_key
from understudy.server.npc_schema import CreateNpc, LoadNpc
from understudy.server.npc_stores import NpcStores
from understudy.server.problem import Problem

__all__ = ["create_npc", "load_npc"]

_MAX_CARD_BYTES = 1 << 20
_MAX_BOOK_BYTES = 1 << 20


async def create_npc(body: CreateNpc, *, world: World, stores: NpcStores, owner: str) -> HostedNpc:
    """Let a character come.

    Args:
        body: who, and with what.
        world: whose characters and lore there are.
        stores: what the body may name.
        owner: who asks.

    Raises:
        Problem: it is no card or lorebook, or there is no such character, world or lore.
        RequestError: the seed is too large.
    """

    def make() -> HostedNpc:
        card, home = _cast(body, world)
        session = Session(card, home, body.player)
        if body.seed is not None:
            session.random = RandomState(seed=body.seed)
        return _furnished(session, body, stores, owner)

    return await asyncio.to_thread(make)


async def load_npc(
    body: LoadNpc, *, worlds: Mapping[str, World], stores: NpcStores, owner: str, model: Model
) -> HostedNpc:
    """Go on with a saved session. Keys and values are taken from the server's own files only.

    Args:
        body: which, and what is not in it.
        worlds: those whose lore is here, by id.
        stores: what the body may name.
        owner: who asks.
        model: who plays the character.

    Raises:
        Problem: it is damaged, foreign, of a world that is not here, or not there.
    """

    def make() -> tuple[HostedNpc, Any]:
        document, kv = _saved(body, stores, owner, model)
        try:
            session = Session.from_json(document, source="The session", world=worlds.get(str(document.get("world"))))
        except UnderstudyError as error:
            raise _fault(error, _given(body)) from error
        return _furnished(session, body, stores, owner), kv

    npc, kv = await asyncio.to_thread(make)
    if kv is not None:
        await npc.restore(model, kv)
    return npc


def _furnished(session: Session, body: CreateNpc | LoadNpc, stores: NpcStores, owner: str) -> HostedNpc:
    session.books = _books(body.lorebooks or [])
    session.lore = stores.find_lore(body.lore) if body.lore is not None else None
    if body.memory:
        if stores.memory.count() >= MAX_FACTS:
            raise Problem(429, f"{MAX_FACTS} facts are remembered; delete some.", param="memory", code="memory_full")
        session.memory, session.player_id = stores.memory, player_key(owner, session.player)
    return HostedNpc(session, tools=body.tools or (), options=body.options)


def _books(documents: list[dict[str, Any]]) -> tuple[Lorebook, ...]:
    try:
        if sum(len(json.dumps(document)) for document in documents) > _MAX_BOOK_BYTES:
            raise CardError(
                "The lorebooks are larger than 1 MiB together. Put the lore into a database of the server's."
            )
        return tuple(
            Lorebook.from_json(document, source=f"The lorebook {number}")
            for number, document in enumerate(documents, 1)
        )
    except CardError as error:
        raise _fault(error, "lorebooks") from error


def _cast(body: CreateNpc, world: World) -> tuple[Card, World | None]:
    """The card that a request names or brings, and the world whose lore it knows.

    Raises:
        Problem: it is no card, or there is no such character or world.
    """
    if body.world not in (None, "", world.id):
        raise Problem(404, f"There is no world {body.world!r} here; there is {world.id!r}.", param="world")
    if body.character is not None:
        return known_card(body.character, world), None if body.world == "" else world
    param = "card" if body.card is not None else "card_file"
    try:
        card = _read_card(body.card_file) if body.card_file is not None else Card.from_json(body.card)
        if len(json.dumps(card.to_json())) > _MAX_CARD_BYTES:
            raise CardError("The card is larger than 1 MiB. Take pictures and other data out of it.")
    except CardError as error:
        raise _fault(error, param) from error
    return card, world if body.world else None


def _read_card(encoded: str) -> Card:
    try:
        content = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise CardError(f"The card's file is no base64: {error}.") from error
    return Card.from_json(parse_card_file(content, "The card").document)


def _saved(body: LoadNpc, stores: NpcStores, owner: str, model: Model) -> tuple[Mapping[str, Any], Any]:
    """What was said, and the keys and values, if there are any and they are the server's own."""
    if body.session is not None:
        return body.session, None
    try:
        if body.id is not None:
            path = stores.saves().path(owner, body.id)
            state = load_state(path, engine=model.engine, fingerprint=model.fingerprint)
            return state.document, state.kv
        assert body.file is not None
        return _read_session(body.file), None
    except SaveError as error:
        raise _fault(error, _given(body)) from error


def _read_session(encoded: str) -> dict[str, Any]:
    try:
        content = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise SaveError(f"The session's file is no base64: {error}.") from error
    with tempfile.TemporaryDirectory(prefix="understudy-") as folder:
        path = Path(folder) / "session"
        path.write_bytes(content)
        try:
            return load_document(path)
        except SaveError as error:
            raise SaveError(str(error).replace(str(path), "The session")) from error


def _given(body: LoadNpc) -> str:
    return next(name for name in ("session", "file", "id") if getattr(body, name) is not None)


def _fault(error: UnderstudyError, param: str) -> Problem:
    return Problem(400, str(error), param=param, code="invalid_value")
