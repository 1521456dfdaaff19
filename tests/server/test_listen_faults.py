"""Faults that a server in a process of its own must outlive, again and again while clients ask: pytest -m slow.

While one goes on, four clients stream answers and a fifth looks at the health probe.
"""

import contextlib
import json
import os
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from understudy.errors import SaveError
from understudy.model.gguf_writer import write_gguf
from understudy.npc.fingerprint import ModelFingerprint
from understudy.npc.session import Session
from understudy.npc.state import load_document, save_state
from understudy.npc.world import default_world
from understudy.testing import byte_tokenizer, random_tensors, tiny_config

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at the process through /proc"),
]

ROUNDS = 50  # of each fault
NUM_CLIENTS = 4
WAIT_S = 120
PROBE_S = 1.0  # no probe may take longer
LEAK = 8  # threads or descriptors more are those of a pool; a leak would be one a round
CHAT = "/v1/chat/completions"
UNKNOWN = ModelFingerprint(weights="", config="", tokenizer="", kv_format="")  # no keys and values are kept
BODY = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "stream": True, "max_tokens": 24}
START = ("-m", "understudy.cli")
# However soon after its start an engine is killed, it is started anew.
START_PATIENT = (
    "-c",
    "from understudy.engine import remote; from understudy.cli.app import main; remote._YOUNG_S = 0; main()",
)
LONG = {**BODY, "max_tokens": 3000, "logit_bias": {"3": -100, "4": -100, "5": -100}}  # all that ends an answer


def written(path: Path, *, seed: int = 0) -> Path:
    config = tiny_config()
    write_gguf(path, config, random_tensors(config, seed=seed), byte_tokenizer().definition, None, file_type="f16")
    return path


class Server:
    """`understudy serve` until it answers."""

    def __init__(
        self, model: Path, *, port: int = 0, log: Any = subprocess.DEVNULL, start: tuple[str, ...] = START, **how: Any
    ) -> None:
        config = model.with_suffix(".toml")
        config.write_text('log = "json"\ndrain_s = 20\nmax_request_s = 30\n')
        command = [sys.executable, *start, "serve", "--config", config, "--model", model]
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("NIM_", "UNDERSTUDY_"))}
        how["env"] = {**environment, "TMPDIR": str(model.parent), **how.pop("env", {})}
        self.process = subprocess.Popen(
            [*command, "--port", str(port)], stdout=subprocess.PIPE, stderr=log, text=True, **how
        )
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], WAIT_S)[0], "it never answered"
        self.url = self.process.stdout.readline().split(" at ")[1].split("/v1 ")[0]
        self.port = int(self.url.rpartition(":")[2])

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.communicate(timeout=WAIT_S)

    def figures(self) -> tuple[int, int]:
        """Its threads and its open descriptors."""
        place = Path(f"/proc/{self.process.pid}")
        return len(list((place / "task").iterdir())), len(list((place / "fd").iterdir()))

    def engine(self) -> int:
        """The process that computes; whichever thread started it."""
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        (found,) = [int(child) for task in tasks for child in (task / "children").read_text().split()]
        return found

    def is_ready(self) -> bool:
        """What it says of itself."""
        return httpx.get(f"{self.url}/v1/health/ready", timeout=WAIT_S).status_code == 200

    def num_at_work(self) -> float:
        """Answers that are under way or wait."""
        text = httpx.get(f"{self.url}/metrics", timeout=WAIT_S).text
        return sum(map(float, re.findall(r"^num_requests_(?:running|waiting)\{.*\} (\S+)$", text, re.MULTILINE)))


class Load:
    """Clients that go on asking.

    Attributes:
        num_done: answers that ended as they should.
        faults: what else came of asking, while no fault was to be expected.
        slowest_s: probe.
    """

    def __init__(self, server: Server) -> None:
        self.num_done = 0
        self.faults: list[str] = []
        self.slowest_s = 0.0
        self._url, self._is_over = server.url, threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(NUM_CLIENTS)]
        self._threads.append(threading.Thread(target=self._probe))

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(WAIT_S)
        assert not any(thread.is_alive() for thread in self._threads), "a client hangs"

    def _ask(self) -> None:
        with httpx.Client(timeout=WAIT_S) as client:
            while not self._is_over.is_set():
                try:
                    answer = client.post(self._url + CHAT, json=BODY)
                except httpx.TransportError as error:
                    self.faults.append(type(error).__name__)
                    self._is_over.wait(0.05)
                    continue
                if answer.status_code == 200 and answer.text.endswith("data: [DONE]\n\n"):
                    self.num_done += 1
                else:
                    self.faults.append(f"{answer.status_code} {answer.text[-200:]}")
                    self._is_over.wait(0.05)

    def _probe(self) -> None:
        with httpx.Client(timeout=WAIT_S) as client:
            while not self._is_over.wait(0.02):
                began_s = time.monotonic()
                try:
                    client.get(f"{self._url}/v1/health/live")
                except httpx.TransportError:
                    continue  # nobody is there: that is no slow answer
                self.slowest_s = max(self.slowest_s, time.monotonic() - began_s)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return written(tmp_path / "tiny.gguf")


@contextlib.contextmanager
def outlived(server: Server) -> Iterator[Load]:
    """A server under load: all is well meanwhile, and afterwards nothing is left of it."""
    with Load(server) as load:
        until(lambda: load.num_done >= 2 * NUM_CLIENTS)
        before = server.figures()
        yield load
        num_done = load.num_done
        until(lambda: load.num_done >= num_done + NUM_CLIENTS)
    assert load.faults == []
    assert load.slowest_s < PROBE_S
    until(lambda: server.num_at_work() == 0)
    until(lambda: all(now <= then + LEAK for now, then in zip(server.figures(), before, strict=True)))
    assert server.process.poll() is None


def begun(server: Server, body: dict[str, Any], *, window: int = 0) -> socket.socket:
    """A stream whose first words have come."""
    text = json.dumps(body).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
    connection = socket.socket()
    connection.settimeout(WAIT_S)
    if window:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    connection.connect(("127.0.0.1", server.port))
    connection.sendall(head.encode() + text)
    assert connection.recv(12) == b"HTTP/1.1 200"
    return connection


def test_clients_vanish(model: Path) -> None:
    with Server(model) as server, outlived(server):
        for number in range(ROUNDS):
            connection = begun(server, LONG)
            if number % 2:  # by a reset instead of a farewell
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()


def test_slow_readers(model: Path) -> None:
    """They read so little that their answers wait in the server; then they are gone."""
    with Server(model) as server, outlived(server) as load:
        for _ in range(ROUNDS):
            num_done = load.num_done
            with begun(server, LONG, window=2048) as connection:
                until(lambda: load.num_done >= num_done + NUM_CLIENTS)  # noqa: B023 (called in this round)
                assert connection.recv(1)


def test_half_open_connections(model: Path) -> None:
    """Hosts that are there no more, with nothing, half a request or a whole one begun: they keep nobody out."""
    starts = (b"", b"GET /heal", f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{{".encode())
    with Server(model) as server, outlived(server), contextlib.ExitStack() as held:
        for number in range(ROUNDS):
            for _ in range(15):  # 750 in all: more than there may be
                connection = socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_S)
                held.enter_context(connection)
                with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                    connection.sendall(starts[number % 3])
        until(lambda: server.figures()[1] < 600)  # the last ones are let in before the first ones are let go


def test_a_models_file_is_replaced(model: Path) -> None:
    """By renaming, as programs do that write whole or not at all: the answers stay those of the old one."""
    other = written(model.with_name("other.gguf"), seed=1)
    said = {**BODY, "stream": False, "temperature": 0}
    with Server(model) as server:
        before = httpx.post(server.url + CHAT, json=said, timeout=WAIT_S).json()["choices"]
        with outlived(server):
            for number in range(ROUNDS):
                part = model.with_name("part")
                shutil.copy(other, part)
                part.replace(model)
                if number % 10 == 0:
                    assert httpx.post(server.url + CHAT, json=said, timeout=WAIT_S).json()["choices"] == before
    with Server(model) as server:
        assert httpx.post(server.url + CHAT, json=said, timeout=WAIT_S).json()["choices"] != before


# The system's clock, so many seconds ahead as the file says; the clock that only grows is left alone.
JUMP = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
static volatile int64_t *ahead;
static int (*real)(clockid_t, struct timespec *);
__attribute__((constructor)) static void begin(void) {
  real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
  int file = open(getenv("CLOCK_FILE"), O_RDONLY);
  void *place = mmap(0, 8, PROT_READ, MAP_SHARED, file, 0);
  if (place != MAP_FAILED) ahead = place;
}
int clock_gettime(clockid_t id, struct timespec *now) {
  if (!real) begin();  /* another library's constructor asks first */
  int result = real(id, now);
  if (ahead && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) now->tv_sec += *ahead;
  return result;
}
time_t time(time_t *place) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (place) *place = now.tv_sec;
  return now.tv_sec;
}
"""
JUMPS_S = (3600, -3600, 86_400 * 400, -86_400 * 400, 1, -1, 5_000_000_000, -1_000_000_000)


def test_the_clock_jumps(model: Path, tmp_path: Path) -> None:
    """Real jumps need rights over the machine; a library in front of the C library gives one process another clock."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    source, library, clock = tmp_path / "jump.c", tmp_path / "jump.so", tmp_path / "clock"
    source.write_text(JUMP)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True, timeout=WAIT_S)
    clock.write_bytes(struct.pack("q", 0))
    with Server(model, env={"LD_PRELOAD": str(library), "CLOCK_FILE": str(clock)}) as server, outlived(server):
        for number in range(ROUNDS):
            jump_s = JUMPS_S[number % len(JUMPS_S)]
            made = httpx.post(f"{server.url}/v1/npcs", json={"character": "minnow"}, timeout=WAIT_S).json()
            with clock.open("r+b") as file:
                file.write(struct.pack("q", jump_s))
            answer = httpx.post(server.url + CHAT, json={**BODY, "stream": False}, timeout=WAIT_S)
            assert answer.status_code == 200
            assert abs(answer.json()["created"] - time.time() - jump_s) < WAIT_S  # it is this process's clock
            where = f"{server.url}/v1/npcs/{made['id']}"
            assert httpx.get(where, timeout=WAIT_S).status_code == 200  # nobody is forgotten for it
            assert httpx.delete(where, timeout=WAIT_S).status_code == 200


def test_the_engines_process_ends(model: Path) -> None:
    """What it was saying fails at once, and says so; the next one is there soon, and characters stay."""
    with Server(model, start=START_PATIENT) as server, outlived(server) as load:
        document = saved(server)
        made = httpx.post(f"{server.url}/v1/npcs/load", json={"session": document}, timeout=WAIT_S).json()
        for _ in range(ROUNDS):
            with begun(server, LONG) as connection:
                os.kill(server.engine(), signal.SIGKILL)
                answer = b""
                while not answer.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"):
                    part = connection.recv(1 << 16)
                    assert part, answer
                    answer += part
                assert b"not complete" in answer
            num_done = load.num_done
            until(server.is_ready)
            until(lambda: load.num_done >= num_done + NUM_CLIENTS)  # noqa: B023 (called in this round)
        kinds = {re.sub(r"^200.*not complete.*", "cut", fault, flags=re.DOTALL) for fault in load.faults}
        assert all(kind == "cut" or kind.startswith(("500", "503")) for kind in kinds), kinds
        load.faults.clear()
        npc = httpx.get(f"{server.url}/v1/npcs/{made['id']}", timeout=WAIT_S).json()
        assert len(npc["history"]) == len(document["history"])


def saved(server: Server) -> dict[str, Any]:
    """A session that had a line, as the server gives it to keep."""
    made = httpx.post(f"{server.url}/v1/npcs", json={"character": "minnow"}, timeout=WAIT_S).json()
    where = f"{server.url}/v1/npcs/{made['id']}"
    for seed in range(20):  # a random model may say nothing, and nothing is remembered then
        said = httpx.post(f"{where}/say", json={"line": "Hi", "max_tokens": 8, "seed": seed}, timeout=WAIT_S)
        assert said.status_code == 200
        document: dict[str, Any] = httpx.post(f"{where}/save", timeout=WAIT_S).json()
        if document["history"]:
            return document
    raise AssertionError("it never spoke")


def check_saved(server: Server, document: dict[str, Any]) -> None:
    """It goes on where it was."""
    loaded = httpx.post(f"{server.url}/v1/npcs/load", json={"session": document}, timeout=WAIT_S)
    assert loaded.status_code == 201
    contents = [message["content"] or "" for message in loaded.json()["history"]]
    assert contents == [message["content"] for message in document["history"]]
    assert contents[0] == "Hi"


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_the_process_ends_and_another_takes_its_place(model: Path, kind: signal.Signals) -> None:
    document, port = None, 0
    for _ in range(ROUNDS):
        with Server(model, port=port) as server:
            port = server.port
            if document is not None:
                check_saved(server, document)
            document = saved(server)
            with Load(server) as load, begun(server, BODY) as connection:
                until(lambda: load.num_done >= NUM_CLIENTS)
                server.process.send_signal(kind)
                assert server.process.wait(WAIT_S) == -kind
                if kind == signal.SIGTERM:  # what was begun has been said
                    answer = b""
                    while part := connection.recv(1 << 16):
                        answer += part
                    assert answer.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
            assert load.slowest_s < PROBE_S
            refused = [fault for fault in load.faults if not fault.endswith("Error") and "server_draining" not in fault]
            assert refused == []
        assert {path.suffix for path in model.parent.iterdir()} <= {".gguf", ".toml"}  # it left no file behind


def test_the_disk_is_full(model: Path, tmp_path: Path) -> None:
    """Of the server, whose log then is lost and nothing else; of a client, whose old save stays."""
    resource = pytest.importorskip("resource")

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    with Path("/dev/full").open("w") as log, Server(model, log=log, preexec_fn=limit) as server:
        with outlived(server):
            document = saved(server)
            path, world = tmp_path / "kept.npc", default_world()
            session = Session.from_json(document, source="The session", world=world)
            save_state(path, session.to_json(), fingerprint=UNKNOWN)
            before, most = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
            for number in range(ROUNDS):
                session.commit(f"And {number}?", "x" * 1000)
                resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) * number // ROUNDS, most[1]))
                try:
                    with pytest.raises(SaveError, match="Cannot save to"):
                        save_state(path, session.to_json(), fingerprint=UNKNOWN)
                finally:
                    resource.setrlimit(resource.RLIMIT_FSIZE, most)
                assert path.read_bytes() == before
            assert not list(tmp_path.glob(".saving-*"))
        check_saved(server, load_document(path))
