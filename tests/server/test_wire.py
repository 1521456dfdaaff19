"""Bytes that no HTTP library sends, at a server that listens: each is refused once, and nothing after it is read."""

import asyncio
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import pytest

from understudy.server import ServedModel, create_app
from understudy.server.wire import Wire

if TYPE_CHECKING:
    from conftest import PeakBelow

Listening = Callable[..., AbstractContextManager[str]]

WAIT_S = 60
MIB = 1 << 20
GIB10 = 10 << 30
SECOND = b"GET /v1/version HTTP/1.1\r\nHost: localhost\r\n\r\n"
TOKENIZE = b'{"prompt": "a"}'


def post(*headers: bytes, body: bytes = b"", version: bytes = b"1.1") -> bytes:
    lines = [b"POST /tokenize HTTP/" + version, b"Host: localhost", b"Content-Type: application/json", *headers]
    return b"\r\n".join([*lines, b"", b""]) + body


def get(*headers: bytes, path: bytes = b"/health") -> bytes:
    return b"\r\n".join([b"GET " + path + b" HTTP/1.1", b"Host: localhost", *headers, b"", b""])


def chunked(body: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked", body=body)


def length(value: bytes) -> bytes:
    return post(b"Content-Length: " + value, body=TOKENIZE)


# What comes, and after it a second request that nobody may answer.
UNCLEAR: dict[str, bytes] = {
    # where does the body end?
    "two content-lengths": post(b"Content-Length: 15", b"Content-Length: 5", body=TOKENIZE),
    "one content-length twice": post(b"Content-Length: 15", b"content-length: 15", body=TOKENIZE),
    "two content-lengths in one line": length(b"15, 5"),
    "one content-length twice in one line": length(b"15, 15"),
    "a content-length with a sign": length(b"+15"),
    "a negative content-length": length(b"-1"),
    "a hexadecimal content-length": length(b"0xf"),
    "a content-length in two words": length(b"1 5"),
    "a content-length of 30 digits": length(b"1" * 30),
    "a content-length of nothing": length(b""),
    "a content-length in other digits": length(b"\xd9\xa1\xd9\xa5"),
    "length, then chunks": post(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    "chunks, then length": post(b"Transfer-Encoding: chunked", b"Content-Length: 5", body=b"0\r\n\r\n"),
    "two transfer-encodings": post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    "gzip and chunks": post(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"),
    "an unknown transfer-encoding": post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"),
    "chunks in HTTP/1.0": post(b"Transfer-Encoding: chunked", body=b"0\r\n\r\n", version=b"1.0"),
    "chunks in a folded line": post(b"Transfer-Encoding:\r\n chunked", body=b"0\r\n\r\n"),
    "a chunk of no number": chunked(b"zz\r\n"),
    "a chunk of a negative size": chunked(b"-5\r\n"),
    "a chunk of 21 digits": chunked(b"0" * 20 + b"5\r\n"),
    "a chunk that is longer than it says": chunked(b"2\r\n{}}}\r\n0\r\n\r\n"),
    "a chunk that ends in LF": chunked(b"2\n{}\n0\n\n"),
    # where does the head end?
    "a line that ends in LF": get(b"A: 1\nB: 2"),
    "lines that end in LF": get().replace(b"\r\n", b"\n"),
    "a line with a CR inside": get(b"A: 1\rB: 2"),
    "a folded header": get(b"A: 1\r\n B: 2"),
    "a head that begins with a fold": b"GET /health HTTP/1.1\r\n Host: localhost\r\n\r\n",
    "a space before the colon": post(b"Content-Length : 15", body=TOKENIZE),
    "a header without a name": get(b": 1"),
    "a header without a colon": get(b"A"),
    "NUL in a header": get(b"A: 1\x00"),
    # what is asked, and by whom?
    "NUL in the path": get(path=b"/health\x00"),
    "a space in the path": get(path=b"/health /metrics"),
    "a tab in the path": get(path=b"/health\t"),
    "letters beyond ASCII in the path": get(path="/hëalth".encode()),
    "no host": b"GET /health HTTP/1.1\r\n\r\n",
    "two hosts": get(b"Host: example.org"),
    "HTTP/0.9": b"GET /health\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/1.2": get().replace(b"1.1", b"1.2"),
    "no HTTP": b"HELO localhost\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(99) + b"\r\n\r\n",
    "a header of 40 KB": get(b"A: " + b"x" * 40_000),
    "a thousand headers": get(*(b"A%d: " % n + b"x" * 40 for n in range(1000))),
}


def talk(url: str, data: bytes) -> bytes:
    """Send bytes; all that is answered until the server closes the connection."""
    with connected(url) as connection:
        connection.sendall(data)
        return rest(connection)


def connected(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=WAIT_S)


def rest(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    found = b""
    try:
        while part := connection.recv(1 << 16):
            found += part
    except ConnectionResetError:  # it had no wish to read all that was sent
        return found
    return found


def statuses(answer: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]


class Small(Wire):
    """A wire with limits that a test reaches."""

    max_connections = 6
    max_body_bytes = MIB


class Hasty(Small):
    max_request_s = 0.5


@pytest.fixture(scope="module")
def url(tiny_served: ServedModel, listening: Listening) -> Iterator[str]:
    with listening(create_app(tiny_served), wire=Small) as address:
        yield address


@pytest.fixture(scope="module")
def hasty_url(tiny_served: ServedModel, listening: Listening) -> Iterator[str]:
    with listening(create_app(tiny_served), wire=Hasty) as address:
        yield address


@pytest.mark.parametrize("name", UNCLEAR)
def test_unclear_requests_are_refused_and_the_connection_ends(url: str, name: str) -> None:
    answer = talk(url, UNCLEAR[name] + SECOND)
    assert statuses(answer) == [400]
    assert b'"code":"invalid_http"' in answer
    assert b"connection: close" in answer.lower()


def test_clear_requests_are_answered_one_after_another(url: str) -> None:
    long = get(b"A: " + b"x" * 20_000, path=b"/health?" + b"x" * 8000)
    folded = chunked(b'8\r\n{"prompt\r\n7;x=y\r\n": "a"}\r\n0\r\nTrailer: 1\r\n\r\n')
    last = get(b"Connection: close")
    answer = talk(url, get() + length(b"15") + long + folded + last)
    assert statuses(answer) == [200] * 5


@pytest.mark.parametrize("place", ["header", "path", "method"])
def test_heads_without_end_are_not_kept(url: str, place: str, peak_below: "PeakBelow") -> None:
    heads = {"header": b"GET / HTTP/1.1\r\nA: ", "path": b"GET /", "method": b"G"}
    with peak_below(24), connected(url) as connection:
        assert send_on(connection, heads[place], GIB10) < 32 * MIB


def send_on(connection: socket.socket, head: bytes, size: int, piece: bytes = b"x" * (1 << 16)) -> int:
    """Send, and go on with the same piece until the other side has had enough; how much it took."""
    sent = 0
    try:
        connection.sendall(head)
        while sent < size:
            sent += connection.send(piece)
    except (BrokenPipeError, ConnectionResetError):
        return sent
    return sent


# A body of 10 GB to where nobody reads it. Path, and the header that announces it.
ENDLESS = {
    "10 GB to a route that takes 4 MiB": (
        b"POST /tokenize",
        b"Content-Type: application/json\r\nContent-Length: %d" % GIB10,
    ),
    "10 GB in chunks to no route": (b"POST /nowhere", b"Transfer-Encoding: chunked"),
    "10 GB to a probe": (b"GET /health", b"Content-Length: %d" % GIB10),
    "10 GB to the page": (b"GET /", b"Content-Length: %d" % GIB10),
    "10 GB of another type": (b"POST /v1/chat/completions", b"Content-Length: %d\r\nContent-Type: text/plain" % GIB10),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_bodies_without_end_are_not_kept(url: str, name: str, peak_below: "PeakBelow") -> None:
    line, header = ENDLESS[name]
    head = line + b" HTTP/1.1\r\nHost: localhost\r\n" + header + b"\r\n\r\n"
    piece = b"10000\r\n" + b"x" * (1 << 16) + b"\r\n" if b"chunked" in header else b"x" * (1 << 16)
    with peak_below(24), connected(url) as connection:
        assert send_on(connection, head, GIB10, piece) < 32 * MIB


def test_a_body_without_end_is_read_to_a_bound(url: str, peak_below: "PeakBelow") -> None:
    """A client that sends all before it listens shall hear why it was refused, but not for ever."""
    with peak_below(24), connected(url) as connection:
        piece = b"10000\r\n" + b"x" * (1 << 16) + b"\r\n"
        assert 4 * MIB < send_on(connection, chunked(b""), GIB10, piece) < 96 * MIB


def test_an_announced_body_is_refused_before_it_comes(url: str) -> None:
    for size, more in ((GIB10, b"X: y"), (5 * MIB, b"Expect: 100-continue")):
        answer = talk(url, post(b"Content-Length: %d" % size, more))
        assert statuses(answer) == [413]
        assert b'"code":"request_too_large"' in answer


# What comes at once, and the byte that comes again and again after it.
SLOW = {
    "nothing": (b"", b""),
    "half a line": (b"GET /heal", b""),
    "a head byte by byte": (b"GET /health HTTP/1.1\r\nA: ", b"x"),
    "half a body": (post(b"Content-Length: 15", body=b"{"), b""),
    "a body byte by byte": (post(b"Content-Length: 100000", body=b"{"), b" "),
    "chunks byte by byte": (chunked(b""), b"1\r\n \r\n"),
    "half a request after a whole one": (get() + post(b"Content-Length: 15", body=b"{"), b""),
    "a body that nobody waits for": (b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n", b" "),
}


@pytest.mark.parametrize("name", SLOW)
def test_requests_without_end_are_not_waited_for(hasty_url: str, name: str) -> None:
    start, drip = SLOW[name]
    deadline = time.monotonic() + WAIT_S
    with connected(hasty_url) as connection:
        connection.sendall(start)
        connection.settimeout(0.05)
        while True:
            assert time.monotonic() < deadline, "the server waits for ever"
            try:
                if not connection.recv(1 << 16):
                    break
            except TimeoutError:
                if not drip:
                    continue
            except ConnectionResetError:
                break
            try:
                connection.sendall(drip)
            except (BrokenPipeError, ConnectionResetError):
                break


def test_who_waits_longest_makes_room(url: str) -> None:
    """Connections that ask for nothing never keep others out."""
    idle = [connected(url) for _ in range(3 * Small.max_connections)]
    try:
        assert statuses(talk(url, get(b"Connection: close"))) == [200]
        assert idle[0].recv(1) == b""
        idle[-1].sendall(get(b"Connection: close"))
        assert statuses(rest(idle[-1])) == [200]
    finally:
        for connection in idle:
            connection.close()


def test_dead_peers_are_noticed(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(socket, "TCP_USER_TIMEOUT"):
        pytest.skip("the system has no such limit")
    seen: list[int] = []
    made = Wire.connection_made

    def look(self: Wire, transport: asyncio.Transport) -> None:
        made(self, transport)
        connection = transport.get_extra_info("socket")
        seen.append(connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
        seen.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT))

    monkeypatch.setattr(Wire, "connection_made", look)
    talk(url, get(b"Connection: close"))
    assert seen == [1, 60_000]


# Well formed, and meant for servers that do more than this one.
FOREIGN: dict[str, tuple[bytes, int]] = {
    "TRACE": (b"TRACE /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\nCookie: echo\r\n\r\n", 405),
    "CONNECT": (b"CONNECT example.org:443 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404),
    "OPTIONS *": (b"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404),
    "a path with a host": (get(b"Connection: close", path=b"http://example.org/health"), 404),
    "a method of our own": (get(b"Connection: close").replace(b"GET", b"BREW"), 405),
    "a method of 10 KB": (get(b"Connection: close").replace(b"GET", b"G" * 10_000), 405),
    "a web socket": (
        get(
            b"Connection: upgrade, close",
            b"Upgrade: websocket",
            b"Sec-WebSocket-Version: 13",
            b"Sec-WebSocket-Key: YWFhYWFhYWFhYWFhYWFhYQ==",
            path=b"/v1/chat/completions",
        ),
        405,
    ),
    "an upgrade to HTTP/2": (get(b"Connection: Upgrade, close", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk"), 200),
    "an expectation of our own": (get(b"Connection: close", b"Expect: tea"), 200),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_others_do_is_not_done_here(url: str, name: str) -> None:
    data, status = FOREIGN[name]
    answer = talk(url, data)
    assert statuses(answer) == [status]
    assert len(answer) < 2000
    assert b"echo" not in answer
    assert b"upgrade" not in answer.lower()
