"""What strangers try at a server that listens: to get past the key, out of the page, into the log, at its memory."""

import base64
import contextlib
import hmac
import io
import json
import re
import socket
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from understudy.server import KeyRing, ServedModel, ServerOptions, create_app
from understudy.server.border import PROBES
from understudy.server.keys import ApiKey
from understudy.server.log_lines import set_up_log

if TYPE_CHECKING:
    from conftest import PeakBelow

Listening = Callable[..., AbstractContextManager[str]]

KEY = "geheim"
HOME = "https://game.example"
PAGE = {"/", "/page/{name}"}
CHAT = "/v1/chat/completions"
WORDS = {"model": "harrow", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
WAIT_S = 60


@pytest.fixture(scope="module")
def app(tiny_served: ServedModel) -> FastAPI:
    return create_app(tiny_served, api_key=KEY, options=ServerOptions(cors_origins=(HOME,)))


@pytest.fixture(scope="module")
def url(app: FastAPI, listening: Listening) -> Iterator[str]:
    """A server with a key."""
    with listening(app) as address:
        yield address


@pytest.fixture(scope="module")
def open_url(tiny_served: ServedModel, listening: Listening) -> Iterator[str]:
    """A server without one."""
    with listening(create_app(tiny_served)) as address:
        yield address


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[httpx.Client]:
    """Shows the key."""
    with httpx.Client(base_url=url, headers={"authorization": f"Bearer {KEY}"}, timeout=WAIT_S) as client:
        yield client


def ask(url: str, path: str, *headers: str, method: str = "GET", body: bytes = b"") -> tuple[int, bytes]:
    """One request as it is written, which libraries would mend; status and the whole answer."""
    host, port = url.removeprefix("http://").split(":")
    lines = [f"{method} {path} HTTP/1.1", *headers, f"Content-Length: {len(body)}", "Connection: close", "", ""]
    if not any(header.startswith("Host:") for header in headers):
        lines.insert(1, "Host: localhost")
    with socket.create_connection((host, int(port)), timeout=WAIT_S) as connection:
        connection.sendall("\r\n".join(lines).encode() + body)
        answer = b""
        while part := connection.recv(1 << 16):
            answer += part
    return int(answer.split(b" ", 2)[1]), answer


# -- the key

SHOWN = {
    "no key": None,
    "nothing": "",
    "the scheme alone": "Bearer",
    "a wrong key": "Bearer wrong",
    "the key's beginning": f"Bearer {KEY[:-1]}",
    "the key and more": f"Bearer {KEY}x",
    "the key twice": f"Bearer {KEY} {KEY}",
    "the key without a scheme": KEY,
    "another scheme": f"Token {KEY}",
    "a password": f"Basic {base64.b64encode(f'user:{KEY}'.encode()).decode()}",
    "a key of 20 KB": f"Bearer {'x' * 20_000}",
}


@pytest.mark.parametrize("name", SHOWN)
def test_every_route_asks_for_the_key(app: FastAPI, url: str, name: str) -> None:
    """The routes are the application's own: a new one is asked here, too."""
    shown = SHOWN[name]
    routes = [(route.path, method) for route in app.routes for method in getattr(route, "methods", None) or ()]
    assert len(routes) > 25
    with httpx.Client(base_url=url, timeout=WAIT_S) as client:
        for path, method in [*routes, ("/nowhere", "GET")]:
            headers = {} if shown is None else {"authorization": shown}
            answer = client.request(method, re.sub(r"\{.*?\}", "x", path), headers=headers)
            assert method != "HEAD" or answer.status_code == 401, path
            if method == "HEAD":
                continue
            if path in PROBES or path in PAGE:
                assert answer.status_code in (200, 404), path
            else:
                assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key"), path


def test_every_route_is_one_of_ours(app: FastAPI) -> None:
    """None is the framework's own but the document: nothing is loaded from elsewhere."""
    others = {route.path for route in app.routes if not isinstance(route, APIRoute)}  # type: ignore[attr-defined]
    assert others == {"/openapi.json"}


PAST = {
    "up from a probe": "/v1/health/live/../../models",
    "up from a probe, encoded": "/v1/health/live/%2e%2e/%2e%2e/models",
    "up from the page": "/page/../v1/models",
    "up from the page, encoded": "/page/..%2fv1%2fmodels",
    "two strokes": "//v1/models",
    "a stroke more": "/v1/models/",
    "a parameter of the path": "/v1/models;/page/",
    "a query": "/v1/models?/page/=/v1/health/live",
    "an encoded letter": "/v1/%6dodels",
    "encoded twice": "/v1/%256dodels",
    "NUL after a probe": "/health%00/v1/models",
    "a stroke after a probe": "/health/",
    "capitals": "/V1/MODELS",
    "a host in the path": "http://localhost/v1/models",
    "a probe's name in the host": "http://localhost:1/health?/v1/models",
    "backslashes": "/page\\..\\v1\\models",
    "a fragment": "/page/x#/../../v1/models",
}


@pytest.mark.parametrize("name", PAST)
def test_no_path_leads_past_the_key(url: str, name: str) -> None:
    status, answer = ask(url, PAST[name])
    assert status in (401, 404)
    assert b'"object":"list"' not in answer


@pytest.mark.parametrize(
    "header",
    [
        "X-Original-URL: /health",
        "X-Rewrite-URL: /health",
        "X-HTTP-Method-Override: OPTIONS",
        "X-Forwarded-For: 127.0.0.1",
        "X-Forwarded-Host: localhost",
        "Forwarded: for=127.0.0.1;host=localhost",
        "X-Api-Key: geheim",
        "Cookie: authorization=Bearer geheim",
    ],
)
def test_no_header_leads_past_the_key(url: str, header: str) -> None:
    assert ask(url, "/v1/models", header)[0] == 401


def test_two_keys_in_one_request_are_one_at_most(url: str) -> None:
    """A proxy may look at the other one."""
    both = ["Authorization: Bearer wrong", f"Authorization: Bearer {KEY}"]
    assert [ask(url, "/v1/models", *order)[0] for order in (both, both[::-1], both[1:])] == [401, 401, 200]


def test_all_keys_are_compared_whichever_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """How long it takes tells neither which key comes near nor how near."""
    ring = KeyRing([ApiKey.of(f"key-{n}", name=f"k{n}") for n in range(5)])
    compared: list[tuple[int, int]] = []
    compare = hmac.compare_digest

    def count(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", count)
    for shown in (b"key-0", b"key-4", b"key-9", b"", b"x" * 1000):
        compared.clear()
        ring.find(shown)
        assert compared == [(32, 32)] * 5, shown


# -- who asks: other pages, other names


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "http://game.example",
        f"{HOME}.evil.example",
        f"{HOME}:8443",
        "https://evil.example/" + HOME,
    ],
)
def test_pages_elsewhere_read_nothing(url: str, client: httpx.Client, origin: str) -> None:
    asks = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    before = httpx.options(url + CHAT, headers={"origin": origin, **asks}, timeout=WAIT_S)
    after = client.get("/v1/models", headers={"origin": origin})
    for answer in (before, after):
        assert "access-control-allow-origin" not in answer.headers
        assert "access-control-allow-credentials" not in answer.headers
    assert (before.status_code, after.status_code) == (400, 200)
    allowed = client.get("/v1/models", headers={"origin": HOME})
    assert allowed.headers["access-control-allow-origin"] == HOME


FOREIGN = [
    "evil.example",
    "evil.example:8000",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "localhost.",
    "evil.example:x",
    "a@evil.example",
]
OWN = [
    "localhost",
    "LOCALHOST:8000",
    "127.0.0.1",
    "127.0.0.1:1",
    "[::1]",
    "[::1]:8000",
    "192.168.7.2:8000",
    "game-box",
    "box.local",
    "me.localhost:1",
]


@pytest.mark.parametrize("host", FOREIGN)
def test_a_name_that_somebody_else_owns_is_none_of_ours(url: str, open_url: str, host: str) -> None:
    """A page of that name would be of the same origin for a browser, and this server has no key to ask for."""
    status, answer = ask(open_url, "/v1/models", f"Host: {host}")
    assert (status, b"host_not_allowed" in answer) == (403, True)
    assert ask(open_url, "/health", f"Host: {host}")[0] == 200
    assert ask(url, "/v1/models", f"Host: {host}", f"Authorization: Bearer {KEY}")[0] == 200


def test_our_own_names_are_heard(open_url: str) -> None:
    assert [host for host in OWN if ask(open_url, "/v1/models", f"Host: {host}")[0] != 200] == []


def test_a_host_is_no_address_to_go_to(url: str) -> None:
    _, answer = ask(url, "/", "Host: evil.example")
    assert b"evil.example" not in answer


# -- out of the folder

OUT = [
    "../../../../etc/passwd",
    "..%2f..%2f..%2f..%2fetc%2fpasswd",
    "%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    "..%5c..%5c..%5cetc%5cpasswd",
    "%252e%252e%252fetc%252fpasswd",
    "%c0%ae%c0%ae%c0%afetc%c0%afpasswd",
    "/etc/passwd",
    "file:///etc/passwd",
    "index.html%00.png",
    "app.js%2f..%2f..%2fnpcs.py",
    "..%2fnpcs.py",
    "%2e",
]


@pytest.mark.parametrize("name", OUT)
def test_no_name_leads_out(client: httpx.Client, url: str, name: str) -> None:
    key = f"Authorization: Bearer {KEY}"
    for before in ("/page/", "/v1/characters/", "/v1/models/", "/v1/npcs/", "/v1/npcs/x/calls/"):
        for method in ("GET", "DELETE", "POST"):
            status, answer = ask(url, before + name, key, "Content-Type: application/json", method=method, body=b"{}")
            assert status in (400, 404, 405), (method, before)
            assert b"root:" not in answer and b"import " not in answer
    for body in ({"character": name}, {"character": "minnow", "world": name}):
        assert client.post("/v1/npcs", json=body).status_code == 404
    assert client.post("/v1/npcs/load", json={"session": {"world": name}}).status_code == 400


# -- into the log, and into our headers

FORGED = '"}\n{"level": "info", "message": "request", "status": 200}'
SAID: dict[str, dict[str, Any]] = {
    "lines in a path": {"path": "/v1/models/%0d%0a%7B%22level%22:%22info%22%7D"},
    "lines in an id": {"path": "/v1/npcs/%0Ax"},
    "a terminal's codes in a path": {"path": "/v1/characters/%1b%5b2J%1b%5d0;x%07"},
    "lines in a query": {"path": "/v1/models?%0d%0aforged"},
    "a request id with a quote": {"headers": ['X-Request-Id: x"}{"level":"info']},
    "a request id with a tab": {"headers": ["X-Request-Id: a\tb"]},
    "a request id of 65 letters": {"headers": [f"X-Request-Id: {'x' * 65}"]},
    "a request id in other letters": {"headers": ["X-Request-Id: é\u2028"]},
    "a control character in a header": {"headers": ["X-Request-Id: a\x1b[2J", "User-Agent: \x07"]},
    "a method of its own": {"method": "FORGED" * 100},
    "lines in a model's name": {"body": {**WORDS, "model": FORGED}},
    "lines in what is said": {"body": {**WORDS, "messages": [{"role": "user", "content": FORGED}]}},
    "lines in a field's name": {"body": {**WORDS, f"x{FORGED}": 1, "x\r\nSet-Cookie: a=b": 1}},
    "spaces around a field's name": {"body": {**WORDS, " x ": 1, " ": 1}},
    "a field's name of nothing": {"body": {**WORDS, "": 1}},
    "a field's name in other letters": {"body": {**WORDS, "\u2028\x00é": 1}},
    "60 long names of fields": {"body": {**WORDS, **{f"{'y' * 15}{n:03} ": 1 for n in range(60)}}},
    "lines in a character's name": {"path": "/v1/npcs", "body": {"character": FORGED}},
    "lines in a call's id": {"path": "/v1/npcs/x/calls/%0d%0ax", "body": {"content": FORGED}},
}


@pytest.mark.parametrize("name", SAID)
def test_one_request_is_one_line_of_the_log(url: str, name: str) -> None:
    said = {"path": CHAT if "body" in SAID[name] else "/v1/models", "headers": [], **SAID[name]}
    body = json.dumps(said["body"]).encode() if "body" in said else b""
    method = said.get("method", "POST" if body else "GET")
    written = io.StringIO()
    with contextlib.redirect_stderr(written), set_up_log("json"):
        headers = [f"Authorization: Bearer {KEY}", "Content-Type: application/json", *said["headers"]]
        status, answer = ask(url, said["path"], *headers, method=method, body=body)
        deadline = time.monotonic() + WAIT_S
        while "request" not in written.getvalue():  # it is written after the answer
            assert time.monotonic() < deadline, "there is no line"
            time.sleep(0.005)
    assert status < 500
    head = answer.partition(b"\r\n\r\n")[0]
    (shown,) = re.findall(rb"x-request-id: (.*)\r\n", head + b"\r\n")
    assert re.fullmatch(rb"req_[0-9a-f]{32}", shown)
    assert b"set-cookie" not in head.lower()
    assert len(head) < 2000
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    (line,) = [line for line in lines if line["message"] == "request"]
    assert (line["status"], line["request_id"]) == (status, shown.decode())
    assert len(json.dumps(line)) < 500
    for forbidden in ("forged", "\x1b", "Set-Cookie", KEY):
        assert forbidden not in written.getvalue()


# -- to its memory and its time

BAD = "messages[0].role is missing"


def many(text: bytes, number: int) -> bytes:
    return b"[" + (text + b",") * number + text + b"]"


def talk(**fields: bytes) -> bytes:
    """A request as bytes: what Python makes of it is for the server to find out."""
    parts = {"model": b'"harrow"', "messages": b'[{"role": "user", "content": "Hi"}]', "max_tokens": b"1", **fields}
    return b"{" + b",".join(b'"%s": %s' % (name.encode(), text) for name, text in parts.items()) + b"}"


COSTLY: dict[str, tuple[bytes, int, str]] = {
    "messages of nothing": (talk(messages=many(b"{}", 400_000)), 400, BAD),
    "3,000 messages": (talk(messages=many(b'{"role": "user", "content": ""}', 3000)), 400, "at most 2048"),
    "documents of nothing": (talk(documents=many(b"1", 400_000)), 400, "documents[0] must"),
    "calls of nothing": (
        talk(messages=b'[{"role": "assistant", "tool_calls": ' + many(b"1", 400_000) + b"}]"),
        400,
        "tool_calls[0] must",
    ),
    "tools of nothing": (talk(tools=many(b"{}", 400_000)), 400, "tools[0].function is missing"),
    "stops without end": (talk(stop=many(b'"a"', 400_000)), 400, "stop must have at most 16"),
    "100,000 biases": (
        talk(logit_bias=b"{" + b",".join(b'"%d":"x"' % n for n in range(100_000)) + b"}"),
        400,
        "at most 1024",
    ),
    "100,000 unknown fields": (talk(**{f"x{n}": b"1" for n in range(100_000)}), 400, "more than 64 unknown fields"),
    "100,000 keys, the last one twice": (
        b"{" + b",".join(b'"%d": 1' % n for n in range(100_000)) + b', "99999": 1}',
        400,
        "'99999' is given twice",
    ),
    "two million brackets": (b"[" * 2_000_000, 400, "nested deeper"),
    "a temperature of 4,000 digits": (talk(temperature=b"9" * 4000), 400, "temperature"),
    "a top_k of 4,000 digits": (talk(top_k=b"9" * 4000), 200, "finish_reason"),  # all there are
    "a seed of 4,000 digits": (talk(seed=b"9" * 4000), 400, "seed"),
    "an n of 4,000 digits": (talk(n=b"9" * 4000), 400, "n must"),
    "a bias of 4,000 digits": (talk(logit_bias=b'{"5": ' + b"9" * 4000 + b"}"), 400, "logit_bias"),
    "a token of 5,000 digits": (talk(logit_bias=b'{"' + b"9" * 5000 + b'": 1}'), 400, "logit_bias"),
    "zeros, packed": (zlib.compress(bytes(1 << 24)) * 4, 400, "no UTF-8 text"),
}


@pytest.mark.parametrize("name", COSTLY)
def test_costly_bodies_are_refused_cheaply(client: httpx.Client, name: str, peak_below: "PeakBelow") -> None:
    body, status, message = COSTLY[name]
    headers = {"content-type": "application/json", "content-encoding": "gzip" if "packed" in name else "identity"}
    began_s = time.process_time()
    with peak_below(160):
        answer = client.post(CHAT, content=body, headers=headers)
    assert (answer.status_code, message in answer.text) == (status, True), answer.text[:200]
    assert len(answer.content) < 5000
    assert time.process_time() - began_s < 8  # the quadratic ones would take minutes


def zeros(packer: Any, number: int) -> bytes:
    """So many mebibytes of zeros, deflated, without an end."""
    packed: bytes = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return packed + (packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)) * (number - 1)


def archive(data: bytes, size: int, name: bytes = b"card.json") -> bytes:
    """A zip of one deflated file that says it has this size."""
    sizes = struct.pack("<IIIHH", 0, len(data), size, len(name), 0)
    head = b"PK\3\4" + struct.pack("<HHHHH", 20, 0, 8, 0, 33) + sizes + name
    index = b"PK\1\2" + struct.pack("<HHHHHH", 20, 20, 0, 8, 0, 33) + sizes + struct.pack("<HHHII", *[0] * 5) + name
    end = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(index), len(head) + len(data), 0)
    return head + data + index + end


def picture(kind: bytes, text: bytes) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    shape = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b"\0\0"))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", shape) + chunk(kind, text) + pixels + chunk(b"IEND", b"")


def bomb(number: int) -> bytes:
    return zeros(zlib.compressobj(9, zlib.DEFLATED, -15), number)


CARDS: dict[str, tuple[Callable[[], bytes], str]] = {
    "a zip bomb": (lambda: archive(bomb(1024), 1 << 30, b"a.bin"), "unpacks to 1024 MiB"),
    "a zip bomb of a card": (lambda: archive(bomb(1024), 1 << 30), "larger than 4 MiB"),
    "a zip bomb that says it is small": (lambda: archive(bomb(1024), 100), "damaged archive"),
    "a picture with a bomb": (
        lambda: picture(b"zTXt", b"chara\0\0" + zeros(zlib.compressobj(9), 1024)),
        "longer than 8 MiB",
    ),
    "a picture of a chunk of 4 GB": (lambda: picture(b"tEXt", b"")[:33] + b"\xff\xff\xff\xfftEXt", "truncated PNG"),
    "a card of brackets": (lambda: b"[" * 2_000_000, "nested"),
    "a card in a card's picture, of brackets": (
        lambda: picture(b"tEXt", b"chara\0" + base64.b64encode(b"[" * 1_000_000)),
        "nested",
    ),
    "an archive that leads out": (lambda: archive(bomb(1), 1 << 20, b"../../evil.sh"), "leads out of it"),
}


@pytest.mark.parametrize("name", CARDS)
def test_cards_that_burst_are_refused(client: httpx.Client, name: str, peak_below: "PeakBelow") -> None:
    make, message = CARDS[name]
    body = {"card_file": base64.b64encode(make()).decode()}
    began_s = time.process_time()
    with peak_below(64):
        answer = client.post("/v1/npcs", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "card_file")
    assert message in error["message"]
    assert "/tmp" not in error["message"]
    assert time.process_time() - began_s < 8


def test_there_are_enough_cases() -> None:
    tables = (SHOWN, PAST, FOREIGN, OUT, SAID, COSTLY, CARDS)
    assert sum(map(len, tables)) >= 60
