"""Models' files read anew while the old ones answer: SIGHUP, and `POST /v1/models/reload`."""

import asyncio
import concurrent.futures
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Request, Response
from pydantic import Field, ValidationError

from understudy.errors import UnderstudyError
from understudy.server.body import read_json
from understudy.server.document import body_of
from understudy.server.problem import JsonResponse, Problem
from understudy.server.schema import Record, field_problem
from understudy.server.served import ServedModel, Shelf

__all__ = ["ReloadRequest", "Reloads", "add_reload"]

_LOOK_S = 0.05
_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class ReloadRequest(Record):
    """The body of `POST /v1/models/reload`: one model's name, or none for all."""

    model: Annotated[str, Field(min_length=1)] | None = None


class Reloads:
    """Puts new models in the place of old ones, one at a time; used in one event loop.

    A new one is loaded whole before it takes the place; then the old one ends what it has begun, and is closed.
    """

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._turn = asyncio.Lock()
        self._retiring: set[asyncio.Task[None]] = set()

    @property
    def is_busy(self) -> bool:
        """Whether a model is being loaded."""
        return self._turn.locked()

    async def reload(self, name: str | None = None) -> list[dict[str, Any]]:
        """Read a model's file, or all models' files, anew; waits for its turn, and until the new ones answer.

        Args:
            name: which one.

        Returns:
            For each model its name, "reloaded" or "failed", the seconds that it took, and what failed.

        Raises:
            Problem: 404, there is no such model; 503, it is not there yet.
        """
        async with self._turn:
            names = [self._shelf.find(name).name] if name is not None else [m.name for m in self._shelf.models]
            return [await self._reload(self._shelf.find(one)) for one in names]

    async def _reload(self, old: ServedModel) -> dict[str, Any]:
        _ = old.model  # one that is still loading is read anew as it is
        began = time.monotonic()
        failure: str | None = None
        try:
            new = await _in_thread(old.renewed)
        except (UnderstudyError, MemoryError) as error:
            failure = str(error) or "There is no memory for a second model."
            _log.error("The model %r is not reloaded, the old one goes on: %s", old.name, failure)
        else:
            self._shelf.replace(old, new)
            task = asyncio.create_task(self._retire(old))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)
            _log.info("The model %r is reloaded.", new.name)
        duration_s = round(time.monotonic() - began, 3)
        status = "reloaded" if failure is None else "failed"
        return {"id": old.name, "object": "model.reload", "status": status, "duration_s": duration_s, "error": failure}

    async def _retire(self, old: ServedModel) -> None:
        while not old.is_idle:
            await asyncio.sleep(_LOOK_S)
        await asyncio.to_thread(old.close)
        self._shelf.retired.remove(old)


async def _in_thread(work: Callable[[], _T]) -> _T:
    """What a function gives, from a thread that does not hold up the process's end, as asyncio's own do."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_T] = loop.create_future()

    def settle(found: "concurrent.futures.Future[_T]") -> None:
        if done.cancelled():
            return
        if (error := found.exception()) is not None:
            done.set_exception(error)
        else:
            done.set_result(found.result())

    def run() -> None:
        found: concurrent.futures.Future[_T] = concurrent.futures.Future()
        try:
            found.set_result(work())
        except BaseException as error:  # noqa: BLE001 (raised again where it is waited for)
            found.set_exception(error)
        if not loop.is_closed():  # else the server ended meanwhile
            loop.call_soon_threadsafe(settle, found)

    threading.Thread(target=run, name="understudy-reload", daemon=True).start()
    return await done


def add_reload(app: FastAPI, reloads: Reloads) -> None:
    """Add the route."""

    @app.post("/v1/models/reload", openapi_extra=body_of(ReloadRequest), summary="Read a model's file anew")
    async def reload(request: Request) -> Response:
        _check_right(request)
        body = _parse(await read_json(request))
        if reloads.is_busy:
            raise Problem(
                409,
                "A model is being reloaded already; send it again in a moment.",
                code="reload_in_progress",
                headers={"retry-after": "5"},
            )
        # A client that leaves does not end it half way.
        results = await asyncio.shield(asyncio.ensure_future(reloads.reload(body.model)))
        if failed := next((result for result in results if result["error"]), None):
            message = f"The model {failed['id']!r} is not reloaded, the old one goes on: {failed['error']}"
            raise Problem(500, message, type="server_error", code="reload_failed")
        return JsonResponse({"object": "list", "data": results})


def _check_right(request: Request) -> None:
    """Only who runs the server may: a player's key must not make it read gigabytes.

    Raises:
        Problem: 403.
    """
    key = getattr(request.state, "api_key", None)
    if key is None or not key.may_reload:
        raise Problem(
            403,
            "This needs UNDERSTUDY_API_KEY, or a key of understudy key new --may-reload; SIGHUP does the same.",
            type="permission_error",
            code="reload_not_allowed",
        )


def _parse(value: Mapping[str, Any]) -> ReloadRequest:
    try:
        return ReloadRequest.model_validate(value)
    except ValidationError as error:
        raise field_problem(error.errors(include_url=False)[0]) from error
