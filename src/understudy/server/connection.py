"""A client may leave at any time: work for it ends then, whole answers and streams alike."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeVar

from fastapi import Response
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

__all__ = ["STREAM_HEADERS", "EventStream", "client_gone", "ignored_header", "unless_gone"]

STREAM_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
_LAST = "data: [DONE]\n\n"  # no event of ours ends so by chance: inside of JSON no line ends
_T = TypeVar("_T")


def ignored_header(names: list[str]) -> dict[str, str]:
    """The header that names fields nobody here knows; what no header may carry is left out."""
    text = ", ".join(name.strip() for name in names if name.isascii() and name.isprintable())[:1000]
    return {"x-ignored-fields": text.strip()} if names else {}


async def client_gone(receive: Callable[[], Awaitable[Message]]) -> None:
    """Return when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_gone(work: Awaitable[_T], watch: "asyncio.Task[None]") -> _T:
    """The work's result; it is cancelled when the client leaves.

    Raises:
        ClientDisconnect: the client left.
    """
    task = asyncio.current_task()
    assert task is not None
    num_cancelled = task.cancelling()
    is_gone = False

    def leave(_: "asyncio.Task[None]") -> None:
        nonlocal is_gone
        is_gone = True
        task.cancel()

    watch.add_done_callback(leave)
    try:
        return await work
    except asyncio.CancelledError:
        if is_gone and task.uncancel() <= num_cancelled:  # else somebody else wants this task to end, too
            raise ClientDisconnect from None
        raise
    finally:
        watch.remove_done_callback(leave)


class EventStream(Response):
    """Sends events until they end or the client leaves."""

    media_type = "text/event-stream"

    def __init__(
        self,
        first: str,
        events: AsyncGenerator[str],
        cancel: Callable[[], None],
        watch: "asyncio.Task[None]",
        *,
        headers: dict[str, str],
    ) -> None:
        """Begin with an event that is there already.

        Args:
            first: the first event.
            events: the others.
            cancel: ends the work that they come from.
            watch: done when the client has left.
            headers: further headers.
        """
        self.status_code = 200
        self.background = None
        self.init_headers(headers)
        self._first, self._events = first, events
        self._cancel, self._watch = cancel, watch

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 (ASGI's signature)
        """Send.

        Raises:
            ClientDisconnect: the client left.
        """
        try:
            await unless_gone(self._send(send), self._watch)
        finally:
            self._watch.cancel()
            self._cancel()
            await self._events.aclose()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        event: str | None = self._first
        while event is not None:
            # The last event ends the response, where it says that it is the last.
            is_last = event.endswith(_LAST)
            await send({"type": "http.response.body", "body": event.encode(), "more_body": not is_last})
            if is_last:
                return
            event = await anext(self._events, None)
        await send({"type": "http.response.body", "body": b"", "more_body": False})
