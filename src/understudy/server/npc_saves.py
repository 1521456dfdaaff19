"""Saving characters: as a document, as a file, or in the server's folder, `/v1/sessions`."""

import asyncio
import tempfile
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.responses import FileResponse

from understudy.npc.state import KV_SHARE
from understudy.server.body import read_json
from understudy.server.document import body_of
from understudy.server.npc_house import NpcHouse, owner_of
from understudy.server.npc_schema import SaveNpc, parse_npc_request
from understudy.server.npc_stores import NpcStores
from understudy.server.problem import JsonResponse, Problem
from understudy.server.served import Shelf

__all__ = ["add_saves"]

_FILE = "application/octet-stream"
_CONTENT = {_FILE: {"schema": {"type": "string", "format": "binary"}}}
_WITH_KV = {
    "parameters": [
        {"name": "with_kv", "in": "query", "required": False, "schema": {"type": "boolean"}},
        {"name": "kv_share", "in": "query", "required": False, "schema": {"type": ["number", "null"]}},
    ],
}


def add_saves(app: FastAPI, house: NpcHouse, stores: NpcStores, shelf: Shelf) -> None:
    """Add the routes.

    Args:
        app: where to.
        house: where the characters live.
        stores: whose folder of sessions.
        shelf: whose first model plays the characters.
    """

    @app.get("/v1/npcs/{npc_id}/save", openapi_extra=_WITH_KV, summary="Tell how large a save would be at most")
    async def size(npc_id: str, request: Request) -> dict[str, Any]:
        npc = house.get(npc_id, owner_of(request))
        served = shelf.default
        with served.in_use():
            share = _share(request, "kv_share")
            found = await npc.saved_size(served.model, with_kv=_flag(request, "with_kv"), kv_share=share)
        sizes = {"text_bytes": found.text_bytes, "kv_bytes": found.kv_bytes, "total_bytes": found.total_bytes}
        return {"id": npc_id, "object": "npc.size", **sizes}

    told: dict[int | str, dict[str, Any]] = {
        200: {"content": _CONTENT},
        201: {"description": "Kept", "content": {"application/json": {"schema": {"type": "object"}}}},
    }

    @app.post("/v1/npcs/{npc_id}/save", openapi_extra=body_of(SaveNpc), summary="Save a character", responses=told)
    async def save(npc_id: str, request: Request) -> Response:
        body = parse_npc_request(SaveNpc, await _body(request))
        owner = owner_of(request)
        npc = house.get(npc_id, owner)
        if body.to == "document":
            return JsonResponse(await asyncio.to_thread(npc.session.to_json))
        served = shelf.default
        with served.in_use():
            if body.to == "file":
                with tempfile.TemporaryDirectory(prefix="understudy-") as folder:
                    path = Path(folder) / "session"
                    await npc.save(path, served.model, with_kv=body.with_kv, kv_share=body.kv_share)
                    content = await asyncio.to_thread(path.read_bytes)
                return Response(content, media_type=_FILE, headers=_attached(npc_id))
            kept = await npc.keep(
                stores.saves(),
                owner,
                served.model,
                with_kv=body.with_kv,
                kv_share=body.kv_share,
                session_id=body.id,
            )
        return JsonResponse(kept, status_code=200 if body.id else 201)

    _add_sessions(app, stores)


def _add_sessions(app: FastAPI, stores: NpcStores) -> None:
    @app.get("/v1/sessions", summary="List your saved characters")
    def sessions(request: Request) -> dict[str, Any]:
        kept = stores.sessions.all_of(owner_of(request)) if stores.sessions else []
        return {"object": "list", "data": kept}

    @app.get(
        "/v1/sessions/{session_id}",
        summary="Download a saved character",
        response_class=FileResponse,
        responses={200: {"content": _CONTENT}},
    )
    def download(session_id: str, request: Request) -> Response:
        path = stores.saves().path(owner_of(request), session_id)
        return FileResponse(path, media_type=_FILE, headers=_attached(session_id))

    @app.delete("/v1/sessions/{session_id}", summary="Delete a saved character")
    def remove(session_id: str, request: Request) -> dict[str, Any]:
        stores.saves().remove(owner_of(request), session_id)
        return {"id": session_id, "object": "npc.session.deleted", "deleted": True}


def _attached(name: str) -> dict[str, str]:
    return {"content-disposition": f'attachment; filename="{name}.npc"'}


def _flag(request: Request, name: str) -> bool:
    text = request.query_params.get(name, "false").lower()
    if text not in ("true", "false"):
        raise Problem(400, f"{name} must be true or false, not {text[:40]!r}.", param=name, code="invalid_value")
    return text == "true"


def _share(request: Request, name: str) -> float | None:
    text = request.query_params.get(name)
    if text is None:
        return KV_SHARE
    if text == "null":
        return None
    try:
        return float(text)
    except ValueError as error:
        message = f"{name} must be a number or null, not {text[:40]!r}."
        raise Problem(400, message, param=name, code="invalid_value") from error


async def _body(request: Request) -> dict[str, Any]:
    """A body is optional: without one, all is as usual."""
    is_empty = request.headers.get("content-length", "0") == "0" and "transfer-encoding" not in request.headers
    return {} if is_empty else await read_json(request)
