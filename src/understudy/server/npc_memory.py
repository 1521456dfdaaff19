"""`/v1/memory`: what characters remember of players, for the client whose players they are."""

import dataclasses
import hashlib
from typing import Any

from fastapi import FastAPI, Request, Response

from understudy.errors import LoreError
from understudy.npc.memory import Fact, Memory
from understudy.server.body import read_json
from understudy.server.document import body_of
from understudy.server.npc_house import owner_of
from understudy.server.npc_schema import EditFact, NoteFact, parse_npc_request
from understudy.server.npc_stores import NpcStores
from understudy.server.problem import JsonResponse, Problem

__all__ = ["MAX_FACTS", "OwnersMemory", "add_memory", "player_key"]

MAX_FACTS = 200_000
_QUERY = {
    "parameters": [
        {"name": name, "in": "query", "required": False, "schema": {"type": "string"}}
        for name in ("player", "character")
    ]
}
_KNOWN: dict[int | str, dict[str, Any]] = {
    200: {"description": "Known already", "content": {"application/json": {"schema": {"type": "object"}}}}
}


def player_key(owner: str, player: str) -> str:
    """How a memory knows a client's player: two keys' players of one name are two. Without keys, by the name alone."""
    return f"{_prefix(owner)}{player}"


def _prefix(owner: str) -> str:
    # Memories know no difference between A and a; keys do.
    return f"{owner.lower()}-{hashlib.sha256(owner.encode()).hexdigest()[:8]}/" if owner else ""


class OwnersMemory:
    """The part of a memory that is one client's."""

    def __init__(self, memory: Memory, owner: str) -> None:
        """Look at a memory.

        Args:
            memory: of all.
            owner: name of a key; empty where the server asks for none.
        """
        self._memory, self._owner = memory, owner

    def facts(self, player: str | None, character: str | None) -> list[dict[str, Any]]:
        """What is remembered of a player or (None) of all, the oldest first."""
        whom = None if player is None else player_key(self._owner, player)
        found = self._memory.facts(whom, character, player_prefix=_prefix(self._owner))
        return [self._told(fact) for fact in found]

    def note(self, player: str, character: str, text: str, *, kind: str) -> dict[str, Any] | None:
        """See `Memory.note`.

        Raises:
            Problem: 429, the memory is full; 400, the text or the kind is not fit.
        """
        if self._memory.count() >= MAX_FACTS:
            raise Problem(429, f"{MAX_FACTS} facts are remembered; delete some.", code="memory_full")
        try:
            fact = self._memory.note(player_key(self._owner, player), character, text, kind=kind)
        except LoreError as error:
            raise Problem(400, str(error), param="text", code="invalid_value") from error
        return self._told(fact) if fact else None

    def edit(self, fact_id: str, text: str) -> dict[str, Any]:
        """See `Memory.edit`.

        Raises:
            Problem: 404, this client has no such fact; 400, the text is not fit.
        """
        number = self._own(fact_id).id
        try:
            return self._told(self._memory.edit(number, text))
        except LoreError as error:
            raise Problem(400, str(error), param="text", code="invalid_value") from error

    def delete(self, fact_id: str) -> None:
        """See `Memory.delete`.

        Raises:
            Problem: 404, this client has no such fact.
        """
        self._memory.delete(self._own(fact_id).id)

    def forget(self, player: str, character: str | None) -> int:
        """See `Memory.forget`."""
        return self._memory.forget(player_key(self._owner, player), character)

    def _own(self, fact_id: str) -> Fact:
        is_number = fact_id.isascii() and fact_id.isdigit() and len(fact_id) < 19
        fact = self._memory.fact(int(fact_id)) if is_number else None
        is_own = fact is not None and (fact.player.startswith(_prefix(self._owner)) or not self._owner)
        if fact is None or not is_own:
            raise Problem(404, f"There is no fact {fact_id[:40]!r} of yours.", code="fact_not_found")
        return fact

    def _told(self, fact: Fact) -> dict[str, Any]:
        player = fact.player.removeprefix(_prefix(self._owner))
        return {"object": "memory.fact", **dataclasses.asdict(fact), "player": player}


def add_memory(app: FastAPI, stores: NpcStores) -> None:
    """Add the routes.

    Args:
        app: where to.
        stores: whose memory.
    """

    def mine(request: Request) -> OwnersMemory:
        return OwnersMemory(stores.memory, owner_of(request))

    @app.get("/v1/memory", openapi_extra=_QUERY, summary="List what is remembered of a player")
    def facts(request: Request) -> dict[str, Any]:
        return {"object": "list", "data": mine(request).facts(*_about(request))}

    @app.get("/v1/memory/export", openapi_extra=_QUERY, summary="The same as a file")
    def export(request: Request) -> Response:
        headers = {"content-disposition": 'attachment; filename="memory.json"'}
        return JsonResponse({"object": "list", "data": mine(request).facts(*_about(request))}, headers=headers)

    @app.post(
        "/v1/memory",
        openapi_extra=body_of(NoteFact),
        summary="Have a character remember",
        status_code=201,
        responses=_KNOWN,
    )
    async def note(request: Request) -> Response:
        body = parse_npc_request(NoteFact, await read_json(request))
        known = mine(request).note(body.player, body.character, body.text, kind=body.kind)
        return JsonResponse(known or {"object": "memory.fact", "id": None}, status_code=201 if known else 200)

    @app.post("/v1/memory/{fact_id}", openapi_extra=body_of(EditFact), summary="Put other words in a fact's place")
    async def edit(fact_id: str, request: Request) -> dict[str, Any]:
        body = parse_npc_request(EditFact, await read_json(request))
        return mine(request).edit(fact_id, body.text)

    @app.delete("/v1/memory/{fact_id}", summary="Forget a fact")
    def delete(fact_id: str, request: Request) -> dict[str, Any]:
        mine(request).delete(fact_id)
        return {"id": int(fact_id), "object": "memory.deleted", "deleted": True}

    @app.delete("/v1/memory", openapi_extra=_QUERY, summary="Forget a player")
    def forget(request: Request) -> dict[str, Any]:
        player, character = _about(request)
        if player is None:
            raise Problem(400, "Say whom to forget: ?player=NAME.", param="player", code="invalid_value")
        return {"object": "memory.deleted", "deleted": mine(request).forget(player, character)}


def _about(request: Request) -> tuple[str | None, str | None]:
    """The player and the character that a query names.

    Raises:
        Problem: 400, a word that means nothing here.
    """
    query = request.query_params
    if unknown := sorted(set(query.keys()) - {"player", "character"}):
        raise Problem(400, f"The query has the unknown word {unknown[0][:40]!r}; there are player and character.")
    return query.get("player"), query.get("character")
