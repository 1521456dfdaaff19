"""The outermost layer: a request's id, its key and limits, a line in the log, and an answer even to a bug."""

import ipaddress
import json
import logging
import re
import secrets
import time
import traceback
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from understudy.server.keys import ApiKey, KeyRing
from understudy.server.limits import Limits
from understudy.server.page_files import is_page_path
from understudy.server.problem import Problem
from understudy.server.tracing import Tracing
from understudy.server.traffic import Traffic

__all__ = ["PROBES", "Border"]

PROBES = frozenset({"/health", "/metrics", "/v1/health/live", "/v1/health/ready", "/v1/metrics", "/v1/version"})
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_PORT = re.compile(r":[0-9]*\Z")
_HOME = (".localhost", ".local", ".internal", ".home.arpa")  # names that nobody can buy
_GONE = 499  # nginx's word for a client that left
_log = logging.getLogger(__name__)


class Border:
    """ASGI middleware around the whole application."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: KeyRing,
        traffic: Traffic,
        count: Callable[[str, str, int], None],
        tracing: Tracing | None = None,
    ) -> None:
        """Wrap an application.

        Args:
            app: what to guard.
            keys: one of them clients must show; with none, nothing.
            traffic: counts what is under way.
            count: told each request's method, route and status.
            tracing: told of each request but probes; None for nobody.
        """
        self._app = app
        self._keys = keys
        self._traffic = traffic
        self._count = count
        self._tracing = tracing
        self._limits = Limits()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        visit = _Visit(scope, send)
        try:
            if scope["path"] in PROBES:
                await self._app(scope, receive, visit.send)
            else:
                await self._let_in(visit, receive)
        except Problem as problem:
            await problem.response()(scope, receive, visit.send)
        except ClientDisconnect:
            visit.status = _GONE
        except Exception as error:  # noqa: BLE001 (the server's border: one client's bug must not take the others down)
            _tell_bug(error, visit)
            if not visit.has_begun:
                answer = Problem(500, "The server failed; its log says why.", type="server_error").response()
                await answer(scope, receive, visit.send)
        finally:
            visit.tell()
            if self._tracing is not None and scope["path"] not in PROBES and not is_page_path(scope["path"]):
                visit.trace(self._tracing)
            self._count(scope["method"], visit.route, visit.status)

    async def _let_in(self, visit: "_Visit", receive: Receive) -> None:
        """Hand a request on, within its key's limits.

        Raises:
            Problem: the server drains, the key is missing, it takes too much, or the request came by a foreign name.
        """
        self._traffic.check()
        if not len(self._keys):
            _check_host(Headers(scope=visit.scope).get("host", ""))
        key = None if is_page_path(visit.scope["path"]) else self._known_key(visit.scope)
        is_answer = _is_answer(visit.scope)
        if key is not None:
            visit.key_name = key.name
            visit.scope.setdefault("state", {})["api_key"] = key
            self._limits.take(key, is_answer=is_answer)
        self._traffic.num_open += 1
        try:
            await self._app(visit.scope, receive, visit.send)
        finally:
            self._traffic.num_open -= 1
            if key is not None and is_answer:
                self._limits.give_back(key)

    def _known_key(self, scope: Scope) -> ApiKey | None:
        """The key that a request shows; None where none is asked for.

        Raises:
            Problem: 401.
        """
        if not len(self._keys):
            return None
        given = Headers(scope=scope).getlist("authorization")
        sent = given[0].encode("latin-1") if len(given) == 1 else b""  # the bytes; of two, a proxy may mean the other
        scheme, _, shown = sent.partition(b" ")
        key = self._keys.find(shown.strip()) if scheme.lower() == b"bearer" else None
        if key is not None:
            return key
        what = "The API key is wrong" if shown else "The API key is missing"
        raise Problem(
            401,
            f"{what}; send the header 'Authorization: Bearer KEY'.",
            type="authentication_error",
            code="invalid_api_key",
            headers={"www-authenticate": "Bearer"},
        )


class _Visit:
    """One request on its way: its id, and what the log will say of it. Never what was said in it."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.scope = scope
        self.status = 0
        self.has_begun = False
        self.key_name: str | None = None
        self._send = send
        self._began_s = time.monotonic()
        given = Headers(scope=scope).get("x-request-id", "")
        self.id = given if _REQUEST_ID.fullmatch(given) else f"req_{secrets.token_hex(16)}"

    async def send(self, message: Message) -> None:
        """Send on, with the id."""
        if message["type"] == "http.response.start":
            self.has_begun = True
            self.status = message["status"]
            MutableHeaders(scope=message)["x-request-id"] = self.id
        await self._send(message)

    def trace(self, tracing: Tracing) -> None:
        """Send the span."""
        tracing.tell(self.scope, route=self.route, status=self.status, began_s=self._began_s, request_id=self.id)

    @property
    def route(self) -> str:
        """The route's own text, not the path: that may hold names, and anything else that a client likes to write."""
        return getattr(self.scope.get("route"), "path", "(none)")

    def tell(self) -> None:
        """Write the line."""
        level = logging.DEBUG if self.scope["path"] in PROBES else logging.INFO
        fields = {
            "request_id": self.id,
            "method": self.scope["method"][:20],
            "route": self.route,
            "status": self.status,
            "duration_s": round(time.monotonic() - self._began_s, 3),
            "key": self.key_name,
        }
        _log.log(level, "request %s", json.dumps(fields), extra={"fields": fields})


def _check_host(host: str) -> None:
    """Keep pages elsewhere away from a server without a key.

    A page of evil.example may give that name this machine's address, and is then of the same origin for a browser:
    neither CORS nor the address that we listen on stops it. So only addresses, and names that have no owner out there.

    Raises:
        Problem: 403.
    """
    name = _PORT.sub("", host).casefold()
    if "." not in name.strip("[]") or name.endswith(_HOME):
        return
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError as error:
        raise Problem(
            403,
            f"A server without a key does not answer to the name {name[:80]!r}; set UNDERSTUDY_API_KEY, or ask for "
            "its address.",
            type="permission_error",
            code="host_not_allowed",
        ) from error


def _is_answer(scope: Scope) -> bool:
    """Whether the model works for a request. A call's result only lets an answer go on that counts already."""
    return scope["method"] == "POST" and "/calls/" not in scope["path"]


def _tell_bug(error: Exception, visit: _Visit) -> None:
    """Log where it failed. An error's own text may hold what a client said: only at the level DEBUG."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    _log.error(
        "%s %s failed (%s): %s\n%s",
        visit.scope["method"],
        visit.route,
        visit.id,
        type(error).__name__,
        frames,
        extra={"fields": {"request_id": visit.id}},
        exc_info=error if _log.isEnabledFor(logging.DEBUG) else None,
    )
