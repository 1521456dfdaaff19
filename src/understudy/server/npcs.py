"""`/v1/npcs`: characters that remember, beside OpenAI's routes. And `/v1/characters`: who there is to choose from."""

import asyncio
import dataclasses
import json
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any

from fastapi import FastAPI, Request, Response

from understudy.engine import Generation
from understudy.errors import UnderstudyError
from understudy.npc.card import Card
from understudy.npc.world import World
from understudy.server.answered import note_answered
from understudy.server.body import read_json
from understudy.server.connection import STREAM_HEADERS, EventStream, client_gone, unless_gone
from understudy.server.document import body_of, schemas_of
from understudy.server.hosted import HostedNpc
from understudy.server.npc_cast import create_npc, load_npc
from understudy.server.npc_character import known_card, sample_world
from understudy.server.npc_house import NpcHouse, owner_of
from understudy.server.npc_memory import add_memory
from understudy.server.npc_saves import add_saves
from understudy.server.npc_schema import (
    CallResult,
    CreateNpc,
    EditFact,
    LoadNpc,
    NoteFact,
    SaveNpc,
    SayToNpc,
    parse_npc_request,
)
from understudy.server.npc_stores import NpcStores
from understudy.server.page_files import portrait_path
from understudy.server.problem import JsonResponse, Problem, problem_of
from understudy.server.served import Shelf

__all__ = ["add_npcs"]

_MAX_READING = 2  # cards at a time: an archive of 3 MiB may unpack to 128


def add_npcs(
    app: FastAPI,
    shelf: Shelf,
    *,
    house: NpcHouse | None = None,
    world: World | None = None,
    stores: NpcStores | None = None,
) -> dict[str, Any]:
    """Add the routes.

    Args:
        app: where to.
        shelf: whose first model plays the characters.
        house: where they live; default: one with the usual bounds.
        world: whose characters and lore there are; default: the sample world.
        stores: what characters share; the caller closes it. Default: a memory that is gone with the server.

    Returns:
        JSON schemas of the bodies by name, for the application's document.
    """
    house, stores, world = house or NpcHouse(), stores or NpcStores(), world or sample_world()
    _add_characters(app, world, stores)
    _add_doors(app, _Doors(house=house, world=world, stores=stores, shelf=shelf))
    add_saves(app, house, stores, shelf)
    _add_talk(app, house, shelf)
    add_memory(app, stores)
    return schemas_of((CreateNpc, LoadNpc, SaveNpc, SayToNpc, CallResult, NoteFact, EditFact))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Doors:
    house: NpcHouse
    world: World
    stores: NpcStores
    shelf: Shelf


def _add_characters(app: FastAPI, world: World, stores: NpcStores) -> None:
    @app.get("/v1/lore", summary="List the lore databases")
    def lore() -> dict[str, Any]:
        found = {name: database.stats() for name, database in stores.lore.items()}
        data = [
            {"id": name, "object": "lore", "passages": stats.num_passages, "embedder": stats.embedder or None}
            for name, stats in found.items()
        ]
        return {"object": "list", "data": data}

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


def _add_doors(app: FastAPI, doors: _Doors) -> None:
    house, world, stores = doors.house, doors.world, doors.stores
    reading = asyncio.Semaphore(_MAX_READING)

    @app.post("/v1/npcs", openapi_extra=body_of(CreateNpc), summary="Let a character come", status_code=201)
    async def create(request: Request) -> Response:
        body = parse_npc_request(CreateNpc, await read_json(request))
        owner = owner_of(request)
        async with reading:
            npc = await create_npc(body, world=world, stores=stores, owner=owner)
        return _shown(house.add(npc, owner), npc, status_code=201)

    @app.post("/v1/npcs/load", openapi_extra=body_of(LoadNpc), summary="Go on with a saved one", status_code=201)
    async def load(request: Request) -> Response:
        body = parse_npc_request(LoadNpc, await read_json(request))
        owner = owner_of(request)
        served = doors.shelf.default
        with served.in_use():
            npc = await load_npc(body, worlds={world.id: world}, stores=stores, owner=owner, model=served.model)
        return _shown(house.add(npc, owner), npc, status_code=201)

    @app.get("/v1/npcs", summary="List your characters")
    async def npcs(request: Request) -> dict[str, Any]:
        found = house.all_of(owner_of(request))
        return {"object": "list", "data": [{"id": npc_id, **npc.to_json()} for npc_id, npc in found.items()]}

    @app.get("/v1/npcs/{npc_id}", summary="Show a character and what was said")
    async def show(npc_id: str, request: Request) -> Response:
        return _shown(npc_id, house.get(npc_id, owner_of(request)))

    @app.delete("/v1/npcs/{npc_id}", summary="Let a character go")
    async def remove(npc_id: str, request: Request) -> dict[str, Any]:
        house.remove(npc_id, owner_of(request))
        return {"id": npc_id, "object": "npc.deleted", "deleted": True}


def _shown(npc_id: str, npc: HostedNpc, *, status_code: int = 200) -> Response:
    return JsonResponse({"id": npc_id, **npc.to_json()}, status_code=status_code)


def _add_talk(app: FastAPI, house: NpcHouse, shelf: Shelf) -> None:
    @app.post("/v1/npcs/{npc_id}/say", openapi_extra=body_of(SayToNpc), summary="Say a line")
    async def say(npc_id: str, request: Request) -> Response:
        said = parse_npc_request(SayToNpc, await read_json(request))
        npc = house.get(npc_id, owner_of(request))
        served = shelf.default
        served.admit()
        note_answered(request, "chat", said, model=served.name, generations=_asked_since(npc))
        options = served.options
        interval_s = options.stream_interval_ms / 1000
        told = npc.say(said, served.model, max_s=options.max_request_s, interval_s=interval_s)
        return await _answer(request, told, is_streamed=said.stream, lease=served.in_use())

    @app.post("/v1/npcs/{npc_id}/warm", summary="Read what is known already, so that the next line waits for less")
    async def warm(npc_id: str, request: Request) -> dict[str, Any]:
        npc = house.get(npc_id, owner_of(request))
        served = shelf.default
        served.admit()
        watch = asyncio.create_task(client_gone(request.receive))
        try:
            with served.in_use():
                await unless_gone(npc.warm(served.model), watch)
        finally:
            watch.cancel()
        return {"id": npc_id, "object": "npc.warm"}

    @app.post("/v1/npcs/{npc_id}/calls/{call_id}", openapi_extra=body_of(CallResult), summary="Give a call's result")
    async def give_result(npc_id: str, call_id: str, request: Request) -> dict[str, Any]:
        body = parse_npc_request(CallResult, await read_json(request))
        if not house.get(npc_id, owner_of(request)).answer_call(call_id, body.content or ""):
            raise Problem(404, f"No call {call_id[:80]!r} waits for a result.", code="call_not_found")
        return {"id": call_id, "object": "npc.call"}

    @app.get("/v1/npcs/{npc_id}/why", summary="Tell what the last answer was made from")
    async def why(npc_id: str, request: Request) -> Response:
        return JsonResponse(await house.get(npc_id, owner_of(request)).why(shelf.default.name))

    @app.post("/v1/npcs/{npc_id}/why", openapi_extra=body_of(SayToNpc), summary="Tell it of a line not yet said")
    async def preview(npc_id: str, request: Request) -> Response:
        said = parse_npc_request(SayToNpc, await read_json(request))
        npc = house.get(npc_id, owner_of(request))
        served = shelf.default
        return JsonResponse(await asyncio.to_thread(npc.preview, said, served.model, served.name))


def _asked_since(npc: HostedNpc) -> Callable[[], Sequence[Generation]]:
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
