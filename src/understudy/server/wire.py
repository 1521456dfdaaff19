"""A client's connection: how long it may take, how many there may be, and which requests say where they end."""

import asyncio
import re
import socket
from typing import ClassVar

import h11
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from understudy.server.problem import Problem

__all__ = ["Wire"]

_MAX_HEAD_BYTES = 32 << 10
_HEAD_END = b"\r\n\r\n"
_UNCLEAR = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)|\n[ \t]")  # half a line's end, or a header that goes on in the next line
_LENGTHS = re.compile(rb"\ncontent-length:([^\r]*)", re.IGNORECASE)
# Seconds until the system gives up a peer that acknowledges nothing, or takes nothing of what waits for it.
_SILENT_S = 60
_PROBE_S = 15
# So much longer than who never sent a whole request may wait who was answered: its next one may be on its way.
_GRACE_S = 1.0


class Wire(H11Protocol):
    """uvicorn's protocol, with limits that it does not have.

    Attributes:
        max_request_s: from a request's first byte, or the connection's beginning, to the request's last byte.
        max_connections: at a time; then the one goes that has waited longest without a whole request.
        max_body_bytes: of a body that nobody reads, because its request was answered already.
    """

    max_request_s: ClassVar[float] = 60
    max_connections: ClassVar[int] = 512
    max_body_bytes: ClassVar[int] = 64 << 20

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, object],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.conn = _ClearRequests(h11.SERVER, _MAX_HEAD_BYTES)
        self._alarm: asyncio.TimerHandle | None = None
        self._begun_s = self.loop.time()
        self._num_body_bytes = 0
        self._is_refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begin."""
        super().connection_made(transport)
        self.transport = _Gathered(transport, self.loop)
        _notice_silence(transport.get_extra_info("socket"))
        self._set_alarm()
        if len(self.connections) > self.max_connections:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._clear_alarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes, unless they come after an answer and are too many."""
        is_body = self._is_refused or self.conn.their_state is h11.SEND_BODY
        self._num_body_bytes = self._num_body_bytes + len(data) if is_body else 0
        if self._num_body_bytes > self.max_body_bytes and (self._is_refused or self._is_answered):
            self.transport.abort()
        elif not self._is_refused:
            super().data_received(data)

    def handle_events(self) -> None:
        """Look at what came, and be patient for so long if it is not whole."""
        super().handle_events()
        if self._is_coming or self._is_refused:
            self._set_alarm()
        else:
            self._clear_alarm()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self._begun_s = self.loop.time() + _GRACE_S
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 (uvicorn's signature; it never tells more)
        """Refuse what is no HTTP, and end the connection: where the next request would begin, nobody knows."""
        if self.cycle is not None:  # who reads the body shall not wait for more
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.abort()
            return
        problem = Problem(400, "The request is no clear HTTP/1.1; send it with an HTTP library.", code="invalid_http")
        answer = problem.response()
        headers = [*answer.raw_headers, (b"connection", b"close")]
        for event in (
            h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
            h11.Data(data=bytes(answer.body)),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        if self.transport.can_write_eof():  # closing now might take the answer back, where more is on its way to us
            self.transport.write_eof()
            self._is_refused = True
        else:
            self.transport.close()

    @property
    def _is_answered(self) -> bool:
        """Whether no answer is owed or under way."""
        return self.conn.our_state not in (h11.SEND_RESPONSE, h11.SEND_BODY)

    @property
    def _is_coming(self) -> bool:
        """Whether a request has begun and is not whole."""
        state = self.conn.their_state
        return state is h11.SEND_BODY or (state is h11.IDLE and bool(self.conn.trailing_data[0]))

    def _set_alarm(self) -> None:
        if self._alarm is None and not self.transport.is_closing():
            self._begun_s = self.loop.time()
            self._alarm = self.loop.call_later(self.max_request_s, self.transport.abort)

    def _clear_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _make_room(self) -> None:
        """End the connection that has waited longest for a request; this one, if all others are at work."""
        others = [c for c in self.connections if isinstance(c, Wire) and c is not self and not c.transport.is_closing()]
        if len(others) < self.max_connections:
            return
        waiting = [c for c in others if c._is_answered or c.conn.their_state is h11.SEND_BODY]
        oldest = min(waiting, key=lambda c: c._begun_s, default=self)
        oldest.transport.abort()


class _Gathered(asyncio.Transport):
    """Sends together what is written in one round of the event loop: a head and its first piece, the last and the end.

    The system is called half as often, and the client wakes half as often.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport, self._loop = transport, loop
        self._pending: list[bytes | bytearray | memoryview] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send soon."""
        if not self._pending:
            self._loop.call_soon(self._flush)
        self._pending.append(data)

    def _flush(self) -> None:
        pending, self._pending = self._pending, []
        if pending:
            self._transport.write(b"".join(pending))

    def write_eof(self) -> None:
        """Send what waits, and that no more comes."""
        self._flush()
        self._transport.write_eof()

    def can_write_eof(self) -> bool:
        """Whether the other side can be told that no more comes."""
        return self._transport.can_write_eof()

    def close(self) -> None:
        """Send what waits, and end the connection."""
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        """End the connection now; what waits is lost."""
        self._pending.clear()
        self._transport.abort()

    def is_closing(self) -> bool:
        """Whether it is ended."""
        return self._transport.is_closing()

    def pause_reading(self) -> None:
        """Take no more."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Take more again."""
        self._transport.resume_reading()

    def get_extra_info(self, name: str, default: object = None) -> object:
        """What the connection tells of itself."""
        return self._transport.get_extra_info(name, default)


class _ClearRequests(h11.Connection):
    """Refuses requests whose length two programs may read in two ways: one of them may be a proxy before us.

    RFC 9112 lets a server take some of them; clients do not send any.
    """

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """The next event.

        Raises:
            RemoteProtocolError: a line ends in half, a header goes on in the next line, there are two lengths, the head
                is too long, or it is another HTTP than 1.0 and 1.1.
        """
        if self.their_state is h11.IDLE:
            _check_head(self.trailing_data[0])
        event = super().next_event()
        if isinstance(event, h11.Request):
            names = {name for name, _ in event.headers}
            is_old = event.http_version == b"1.0"
            if b"transfer-encoding" in names and (is_old or b"content-length" in names):
                raise h11.RemoteProtocolError("two lengths")
            if not (is_old or event.http_version == b"1.1"):
                raise h11.RemoteProtocolError("another version")
        return event


def _check_head(received: bytes) -> None:
    head = received.partition(_HEAD_END)[0]
    lengths = _LENGTHS.findall(head)
    if len(head) > _MAX_HEAD_BYTES:
        raise h11.RemoteProtocolError("long head")
    if _UNCLEAR.search(head) or len(lengths) > 1 or any(b"," in length for length in lengths):
        raise h11.RemoteProtocolError("unclear head")


def _notice_silence(connection: socket.socket) -> None:
    """Have the system end a connection whose peer is gone without a word, or does not take what it asked for."""
    options = (
        ("SOL_SOCKET", "SO_KEEPALIVE", 1),
        ("IPPROTO_TCP", "TCP_KEEPIDLE", _PROBE_S),
        ("IPPROTO_TCP", "TCP_KEEPINTVL", _PROBE_S),
        ("IPPROTO_TCP", "TCP_KEEPCNT", _SILENT_S // _PROBE_S - 1),
        ("IPPROTO_TCP", "TCP_USER_TIMEOUT", _SILENT_S * 1000),
    )
    for level, option, value in options:
        if hasattr(socket, option):  # which there are depends on the system
            connection.setsockopt(getattr(socket, level), getattr(socket, option), value)
