"""The outermost layer: a request's id, the key, and an answer even to a bug."""

import hmac
import logging
import secrets

from fastapi import Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from understudy.server.page_files import is_page_path
from understudy.server.problem import Problem

__all__ = ["Border"]

_WITHOUT_KEY = ("/v1/health/live", "/v1/health/ready")
_log = logging.getLogger(__name__)


class Border:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, *, api_key: str | None) -> None:
        """Wrap an application.

        Args:
            app: what to guard.
            api_key: what clients must show; None: nothing.
        """
        self._app = app
        self._api_key = api_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_begun = False
        request_id = f"req_{secrets.token_hex(16)}"

        async def send_with_id(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            app = self._refusal(scope) or self._app
            await app(scope, receive, send_with_id)
        except ClientDisconnect:
            return
        except Exception:  # noqa: BLE001 (the server's border: one client's bug must not take the others down)
            _log.exception("%s %s failed (%s)", scope["method"], scope["path"], request_id)
            if not has_begun:
                problem = Problem(500, "The server failed; its log says why.", type="server_error")
                await problem.response()(scope, receive, send_with_id)

    def _refusal(self, scope: Scope) -> Response | None:
        """The answer to a request without the key."""
        if self._api_key is None or scope["path"] in _WITHOUT_KEY or is_page_path(scope["path"]):
            return None
        given = Headers(scope=scope).get("authorization", "").encode("latin-1")  # the bytes as they were sent
        scheme, _, key = given.partition(b" ")
        # Constant time: how long it takes tells nothing of the key.
        if scheme.lower() == b"bearer" and hmac.compare_digest(key.strip(), self._api_key.encode()):
            return None
        what = "The API key is wrong" if key else "The API key is missing"
        return Problem(
            401,
            f"{what}; send the header 'Authorization: Bearer KEY'.",
            type="authentication_error",
            code="invalid_api_key",
            headers={"www-authenticate": "Bearer"},
        ).response()
