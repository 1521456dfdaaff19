"""`/v1/npcs`: characters that remember, beside OpenAI's routes. And `/v1/characters`: who there is to choose from."""

import asyncio
import base64
import binascii
import hashlib
import json
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any

from fastapi import FastAPI, Request, Response

from understudy.engine import Generation
from understudy.errors import CardError, UnderstudyError
from understudy.npc.card import Card
from understudy.npc.card_file import parse_card_file
from understudy.npc.session import Session
from understudy.npc.world import World
from understudy.server.answered import note_answered
from understudy.server.body import read_json
from understudy.server.connection import STREAM_HEADERS, EventStream, client_gone, unless_gone
from understudy.server.npc import Npc, load_npc
from understudy.server.npc_character import known_card, sample_world
from understudy.server.npc_schema import CallResult, CreateNpc, LoadNpc, SayToNpc, parse_npc_request
from understudy.server.page_files import portrait_path
from understudy.server.problem import JsonResponse, Problem, problem_of
from understudy.server.served import Shelf

__all__ = ["NpcHouse", "add_npcs"]

_MAX_NPCS = 256
_MAX_BYTES = 64 << 20
_MAX_CARD_BYTES = 1 << 20
_MAX_READING = 2  # cards at a time: an archive of 3 MiB may unpack to 128
_IDLE_S = 30 * 60.0


class _Guest:
    """A character in the house."""

    def __init__(self, npc: Npc, owner: str, num_bytes: int, now_s: float) -> None:
        self.npc, self.owner, self.num_bytes, self.used_s = npc, owner, num_bytes, now_s


class NpcHouse:
    """All characters that clients made, within bounds: in number, in bytes, and in time without a word."""

    def __init__(
        self,
        *,
        max_npcs: int = _MAX_NPCS,
        max_bytes: int = _MAX_BYTES,
        idle_s: float = _IDLE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open an empty house.

        Args:
            max_npcs: most characters at a time.
            max_bytes: of their cards and of what was said, together.
            idle_s: who hears nothing for so long is forgotten.
            clock: seconds, growing.
        """
        self.max_npcs, self.max_bytes, self.idle_s = max_npcs, max_bytes, idle_s
        self._clock = clock
        self._guests: dict[str, _Guest] = {}

    def add(self, npc: Npc, owner: str) -> str:
        """Take a character in; its id, which nobody can guess.

        Raises:
            Problem: 429, the house is full.
        """
        self._forget_idle()
        num_bytes = len(json.dumps(npc.session.card.to_json()))
        taken = num_bytes + sum(guest.num_bytes + guest.npc.num_chars for guest in self._guests.values())
        if len(self._guests) >= self.max_npcs or taken > self.max_bytes:
            raise Problem(
                429,
                f"There are {len(self._guests)} characters already; save and delete one, or wait: who hears nothing "
                f"for {self.idle_s / 60:.0f} minutes is forgotten.",
                type="rate_limit_error",
                code="too_many_npcs",
                headers={"retry-after": "60"},
            )
        npc_id = f"npc_{secrets.token_urlsafe(24)}"
        self._guests[npc_id] = _Guest(npc, owner, num_bytes, self._clock())
        return npc_id

    def get(self, npc_id: str, owner: str) -> Npc:
        """A character of this owner.

        Raises:
            Problem: 404.
        """
        self._forget_idle()
        guest = self._guests.get(npc_id)
        if guest is None or guest.owner != owner:
            raise Problem(
                404,
                f"There is no character {npc_id[:80]!r} here; it may have been idle too long. Create it, or load it.",
                code="npc_not_found",
            )
        guest.used_s = self._clock()
        return guest.npc

    def remove(self, npc_id: str, owner: str) -> None:
        """Let a character go; a line that it is answering ends.

        Raises:
            Problem: 404.
        """
        self.get(npc_id, owner).stop()
        del self._guests[npc_id]

    def all_of(self, owner: str) -> dict[str, Npc]:
        """An owner's characters by id, oldest first."""
        self._forget_idle()
        return {npc_id: guest.npc for npc_id, guest in self._guests.items() if guest.owner == owner}

    def _forget_idle(self) -> None:
        now = self._clock()
        for npc_id in [i for i, guest in self._guests.items() if now - guest.used_s > self.idle_s]:
            self._guests.pop(npc_id).npc.stop()


def add_npcs(
    app: FastAPI, shelf: Shelf, *, house: NpcHouse | None = None, world: World | None = None
) -> dict[str, Any]:
    """Add the routes.

    Args:
        app: where to.
        shelf: whose first model plays the characters.
        house: where they live; default: one with the usual bounds.
        world: whose characters and lore there are; default: the sample world.

    Returns:
        JSON schemas of the bodies by name, for the application's document.
    """
    house, world = house or NpcHouse(), world or sample_world()
    _add_characters(app, world)
    _add_doors(app, house, world)
    _add_talk(app, house, shelf)
    kinds = (CreateNpc, LoadNpc, SayToNpc, CallResult)
    described: dict[str, Any] = {}
    for kind in kinds:
        schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
        described |= {**schema.pop("$defs", {}), kind.__name__: schema}
    return described


def _body_of(kind: type) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{kind.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _owner(request: Request) -> str:
    """Who asks: one client's characters are not another's. Without keys all are one."""
    return hashlib.sha256(request.headers.get("authorization", "").encode("latin-1")).hexdigest()


def _add_characters(app: FastAPI, world: World) -> None:
    @app.get("/v1/characters", summary="List the characters that come with the server")
    async def characters() -> dict[str, Any]:
        return {"object": "list", "data": [_listed(card, world) for card in world.characters]}

    @app.get("/v1/characters/{name}", summary="Show a character's card and its functions")
    async def character(name: str) -> dict[str, Any]:
        card = known_card(name, world)
        schemas = [tool for tool in world.tools if tool.get("function", tool)["name"] in card.tools]
        return {**_listed(card, world), "card": card.to_json(), "tools": schemas}


def _listed(card: Card, world: World) -> dict[str, Any]:
    return {
        "id": card.id or card.name,
        "object": "character",
        "name": card.name,
        "role": card.role,
        "scenario": card.scenario,
        "world": world.id,
        "world_name": world.name,
        "picture": portrait_path(card.id) if world is sample_world() else None,
    }


def _add_doors(app: FastAPI, house: NpcHouse, world: World) -> None:
    reading = asyncio.Semaphore(_MAX_READING)

    @app.post("/v1/npcs", openapi_extra=_body_of(CreateNpc), summary="Let a character come", status_code=201)
    async def create(request: Request) -> Response:
        body = parse_npc_request(CreateNpc, await read_json(request))
        async with reading:
            card, home = await asyncio.to_thread(_cast, body, world)
        npc = Npc(Session(card, home, body.player), tools=body.tools or ())
        return _shown(house.add(npc, _owner(request)), npc, status_code=201)

    @app.post("/v1/npcs/load", openapi_extra=_body_of(LoadNpc), summary="Go on with a saved one", status_code=201)
    async def load(request: Request) -> Response:
        body = parse_npc_request(LoadNpc, await read_json(request))
        try:
            npc = await asyncio.to_thread(load_npc, body.session, worlds={world.id: world}, tools=body.tools or ())
        except UnderstudyError as error:
            raise _fault(error, "session") from error
        return _shown(house.add(npc, _owner(request)), npc, status_code=201)

    @app.get("/v1/npcs", summary="List your characters")
    async def npcs(request: Request) -> dict[str, Any]:
        found = house.all_of(_owner(request))
        return {"object": "list", "data": [{"id": npc_id, **npc.to_json()} for npc_id, npc in found.items()]}

    @app.get("/v1/npcs/{npc_id}", summary="Show a character and what was said")
    async def show(npc_id: str, request: Request) -> Response:
        return _shown(npc_id, house.get(npc_id, _owner(request)))

    @app.post("/v1/npcs/{npc_id}/save", summary="Give the session to keep")
    async def save(npc_id: str, request: Request) -> Response:
        return JsonResponse(await asyncio.to_thread(house.get(npc_id, _owner(request)).save))

    @app.delete("/v1/npcs/{npc_id}", summary="Let a character go")
    async def remove(npc_id: str, request: Request) -> dict[str, Any]:
        house.remove(npc_id, _owner(request))
        return {"id": npc_id, "object": "npc.deleted", "deleted": True}


def _shown(npc_id: str, npc: Npc, *, status_code: int = 200) -> Response:
    return JsonResponse({"id": npc_id, **npc.to_json()}, status_code=status_code)


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


def _fault(error: UnderstudyError, param: str) -> Problem:
    return Problem(400, str(error), param=param, code="invalid_value")


def _add_talk(app: FastAPI, house: NpcHouse, shelf: Shelf) -> None:
    @app.post("/v1/npcs/{npc_id}/say", openapi_extra=_body_of(SayToNpc), summary="Say a line")
    async def say(npc_id: str, request: Request) -> Response:
        said = parse_npc_request(SayToNpc, await read_json(request))
        npc = house.get(npc_id, _owner(request))
        served = shelf.default
        served.admit()
        note_answered(request, "chat", said, model=served.name, generations=_asked_since(npc))
        told = npc.say(said, served.model, deadline_s=served.options.max_request_s)
        return await _answer(request, told, is_streamed=said.stream, lease=served.in_use())

    @app.post("/v1/npcs/{npc_id}/calls/{call_id}", openapi_extra=_body_of(CallResult), summary="Give a call's result")
    async def give_result(npc_id: str, call_id: str, request: Request) -> dict[str, Any]:
        body = parse_npc_request(CallResult, await read_json(request))
        if not house.get(npc_id, _owner(request)).answer_call(call_id, body.content or ""):
            raise Problem(404, f"No call {call_id[:80]!r} waits for a result.", code="call_not_found")
        return {"id": call_id, "object": "npc.call"}

    @app.get("/v1/npcs/{npc_id}/why", summary="Tell what the last answer was made from")
    async def why(npc_id: str, request: Request) -> Response:
        return JsonResponse(await house.get(npc_id, _owner(request)).why(shelf.default.name))

    @app.post("/v1/npcs/{npc_id}/why", openapi_extra=_body_of(SayToNpc), summary="Tell it of a line not yet said")
    async def preview(npc_id: str, request: Request) -> Response:
        said = parse_npc_request(SayToNpc, await read_json(request))
        npc = house.get(npc_id, _owner(request))
        served = shelf.default
        return JsonResponse(await asyncio.to_thread(npc.preview, said, served.model, served.name))


def _asked_since(npc: Npc) -> Callable[[], Sequence[Generation]]:
    """What the model makes for the character's next line."""
    before = npc.session.asked
    return lambda: [one for _, one in npc.session.asked] if npc.session.asked is not before else []


async def _answer(
    request: Request, told: AsyncGenerator[dict[str, Any]], *, is_streamed: bool, lease: AbstractContextManager[None]
) -> Response:
    """Answer, and hold a lease until that is done; a stream goes on after this returned."""
    with ExitStack() as held:
        held.enter_context(lease)
        watch = asyncio.create_task(client_gone(request.receive))
        if not is_streamed:
            try:
                return JsonResponse(await unless_gone(_whole(told), watch))
            finally:
                watch.cancel()
                await told.aclose()
        events = _events(told)
        try:
            # Whatever fails before the first word is still an HTTP status.
            first = await unless_gone(anext(events), watch)
        except BaseException:
            watch.cancel()
            await told.aclose()
            raise
        # Closing the events ends the work behind them; by then the character may answer another line.
        return EventStream(first, events, held.pop_all().close, watch, headers=STREAM_HEADERS)


async def _whole(told: AsyncGenerator[dict[str, Any]]) -> dict[str, Any]:
    events = [event async for event in told]
    return {"object": "npc.line", **events[-1]}


async def _events(told: AsyncGenerator[dict[str, Any]]) -> AsyncGenerator[str]:
    """Server-sent events; a failure in their midst is told by one of them."""
    has_begun = False
    try:
        async for event in told:
            yield _event(event["type"], event)
            has_begun = True
    except (UnderstudyError, Problem) as error:
        if not has_begun:
            raise
        problem = error if isinstance(error, Problem) else problem_of(error)
        yield _event("error", {"type": "error", **problem.to_json(is_in_stream=True)})
    finally:
        await told.aclose()


def _event(name: str, value: dict[str, Any]) -> str:
    # ASCII: some clients take U+2028 inside a string for the end of a line.
    return f"event: {name}\ndata: {json.dumps(value, separators=(',', ':'))}\n\n"
