"""Many clients at one server: python -m benchmarks.load [--seconds 300] [--clients 64] [--crowd 200] [--peer].

`understudy serve` runs as a process of its own; the clients stream from it, in another process on the same machine.
First one client, then all of them for as long as asked, then a crowd that comes at once, more than the server lets
wait. Then the same answers without HTTP, from the bare engine. `--peer` asks llama-cpp-python's server, with the same
file, the same. Tokens are pieces of text where a server does not count them. A small model's answers are short, so that
most of a request is its prompt; with `--full-length` all have 64 tokens, those that end an answer being banned.

The clients take as little as they can of the cores that they share with the server: each keeps its connection, notes
when the first words come, and reads the events once all are there. Cores that each side kept busy are told apart, where
the system tells them (Linux). Needs httpx; the peer the extra `bench` and `pip install "llama-cpp-python[server]"`.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import datetime
import json
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from benchmarks.first_token import commit, hardware

if TYPE_CHECKING:
    from understudy.npc.model import Model

LIMIT_S = 180
MAX_TOKENS = 64
MAX_RATIO = 4.0
MIN_GAIN = 3.0
INTERVAL_S = 0.025  # the server's own for streams; the bare engine's readers are woken no more often
WORDS = re.compile(rb'"content": ?"[^"]')
PERSONA = "You are Hettie Marlpit, who keeps the Dry Boot, an inn by the river. You are kind, and you like to talk."
LINES = ("Good evening!", "What does a room cost?", "Who lives by the river?", "Tell me of the Great Rise.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """What became of a request.

    Attributes:
        outcome: "answered", "refused" (429 with Retry-After), or what went wrong.
        first_s: to the first piece of text.
        total_s: to the end.
        num_tokens: of the answer.
    """

    outcome: str
    first_s: float = 0.0
    total_s: float = 0.0
    num_tokens: int = 0


Ask = Callable[[int], Awaitable[Answer]]
NewClient = Callable[[], contextlib.AbstractAsyncContextManager[Ask]]


def messages(number: int) -> list[dict[str, str]]:
    """A conversation; lines differ from client to client, the persona does not."""
    line = f"{LINES[number % len(LINES)]} I am guest number {number}."
    return [{"role": "system", "content": PERSONA}, {"role": "user", "content": line}]


def request_bytes(number: int, host: str, banned: Sequence[int] = ()) -> bytes:
    """A request for a streamed answer without some tokens."""
    body = json.dumps(
        {
            "model": "harrow",
            "messages": messages(number),
            "max_tokens": MAX_TOKENS,
            "temperature": 0.8,
            "seed": number,
            "stream": True,
            "stream_options": {"include_usage": True},
            **({"logit_bias": {str(token_id): -100 for token_id in banned}} if banned else {}),
        }
    ).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


@contextlib.asynccontextmanager
async def over_http(url: str, banned: Sequence[int] = ()) -> AsyncIterator[Ask]:
    """A client that streams answers without some tokens, over a connection of its own."""
    host = url.removeprefix("http://")
    address, _, port = host.partition(":")
    pair: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(number: int) -> Answer:
        nonlocal pair
        began = time.perf_counter()
        try:
            async with asyncio.timeout(LIMIT_S):
                if pair is None or pair[0].at_eof() or pair[1].is_closing():
                    pair = await asyncio.open_connection(address, int(port))
                reader, writer = pair
                writer.write(request_bytes(number, host, banned))
                return await read_answer(reader, began)
        except TimeoutError:
            outcome = "hung"
        except (OSError, asyncio.IncompleteReadError, ValueError) as error:
            outcome = type(error).__name__
        if pair is not None:
            pair[1].close()
            pair = None
        return Answer(outcome=outcome, total_s=time.perf_counter() - began)

    try:
        yield ask
    finally:
        if pair is not None:
            pair[1].close()


async def read_answer(reader: asyncio.StreamReader, began: float) -> Answer:
    """Read one response to its end.

    Raises:
        IncompleteReadError: the connection ended before.
        ValueError: it is no HTTP, or an event is no JSON.
    """
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    status = int(head.split(b" ", 2)[1])
    if (length := re.search(rb"\r\ncontent-length: *(\d+)", head)) is not None:
        await reader.readexactly(int(length[1]))
    if status != 200 or length is not None:
        is_refusal = status == 429 and b"\r\nretry-after:" in head
        outcome = "refused" if is_refusal else f"status {status}"
        return Answer(outcome=outcome, total_s=time.perf_counter() - began)
    received, first_s = bytearray(), 0.0
    while not received.endswith(b"\r\n0\r\n\r\n"):
        data = await reader.read(1 << 16)
        if not data:
            raise asyncio.IncompleteReadError(bytes(received), None)
        received += data
        if not first_s and WORDS.search(received):
            first_s = time.perf_counter() - began
    total_s = time.perf_counter() - began
    num_pieces, usage, is_done = 0, None, False
    for line in unchunked(received).split(b"\n"):
        is_done = is_done or line.rstrip() == b"data: [DONE]"
        if not line.startswith(b"data: {"):
            continue
        chunk: dict[str, Any] = json.loads(line[6:])
        if "error" in chunk:
            return Answer(outcome=f"error {chunk['error']['message']}")
        usage = chunk.get("usage") or usage
        num_pieces += any(choice["delta"].get("content") for choice in chunk["choices"])
    return Answer(
        outcome="answered" if is_done else "cut off",
        first_s=first_s or total_s,  # an answer without words
        total_s=total_s,
        num_tokens=usage["completion_tokens"] if usage else num_pieces,
    )


def unchunked(body: bytes | bytearray) -> bytes:
    """A body without the sizes of its chunks.

    Raises:
        ValueError: it has none.
    """
    pieces: list[bytes | bytearray] = []
    place = 0
    while True:
        end = body.index(b"\r\n", place)
        size = int(body[place:end].partition(b";")[0], 16)
        if size == 0:
            return b"".join(pieces)
        pieces.append(body[end + 2 : end + 2 + size])
        place = end + 4 + size


async def bare(model: "Model", number: int, banned: Sequence[int] = ()) -> Answer:
    """The same answer without a server."""
    from understudy.prompt import Conversation, Message

    talk = Conversation(messages=tuple(Message(**message) for message in messages(number)))  # type: ignore[arg-type]
    bias = dict.fromkeys(banned, -100.0)
    sampling = dataclasses.replace(model.default_sampling, temperature=0.8, seed=number, logit_bias=bias)
    began, first_s = time.perf_counter(), 0.0
    generation = await asyncio.to_thread(model.generate, talk, sampling=sampling, max_tokens=MAX_TOKENS)
    async for chunk in generation:
        first_s = first_s or (time.perf_counter() - began if chunk.text else 0.0)
        generation.chunk_interval_s = INTERVAL_S
    total_s = time.perf_counter() - began
    num_tokens = generation.usage.completion_tokens
    return Answer(outcome="answered", first_s=first_s or total_s, total_s=total_s, num_tokens=num_tokens)


def cpu_s(pid: int | None) -> float | None:
    """CPU time of another process and of those that it started; None where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        children = [
            child for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
        ]
    except OSError:
        return None
    own_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return own_s + sum(cpu_s(int(child)) or 0.0 for child in children)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drive:
    """What came of clients that asked again and again.

    Attributes:
        answers: of each client.
        wall_s: until the last answer ended.
        clients_cpu_s: CPU time of this process.
        server_cpu_s: CPU time of the server's; None where there is none, or nobody knows.
    """

    answers: list[list[Answer]]
    wall_s: float
    clients_cpu_s: float
    server_cpu_s: float | None

    def told(self) -> dict[str, Any]:
        """The figures."""
        answers = [answer for own in self.answers for answer in own]
        first = sorted(answer.first_s for answer in answers if answer.outcome == "answered")
        num_tokens = sum(answer.num_tokens for answer in answers)
        server_s = self.server_cpu_s
        busy = {"clients": self.clients_cpu_s} if server_s is None else {
            "server": server_s, "clients": self.clients_cpu_s
        }  # fmt: skip
        return {
            "outcomes": dict(Counter(answer.outcome for answer in answers)),
            "tokens_per_s": round(num_tokens / self.wall_s, 1),
            "tokens_of_an_answer": round(num_tokens / max(1, len(first)), 1),
            "first_token_p50_s": round(statistics.median(first), 3) if first else None,
            "first_token_p99_s": round(first[min(len(first) - 1, int(0.99 * len(first)))], 3) if first else None,
            "first_token_max_s": round(first[-1], 3) if first else None,
            "fewest_answers_of_a_client": min(sum(a.outcome == "answered" for a in own) for own in self.answers),
            "busy_cores": {name: round(seconds / self.wall_s, 2) for name, seconds in busy.items()},
            "cpu_ms_per_token": {name: round(1e3 * s / max(1, num_tokens), 3) for name, s in busy.items()},
        }


async def drive(new: NewClient, *, num_clients: int, seconds: float, server: int | None = None) -> Drive:
    """Let each client ask again and again, until so many seconds are over and it has its answer."""
    print(f"{num_clients} clients for {seconds:g} s", file=sys.stderr, flush=True)
    began, own_s, server_s = time.perf_counter(), time.process_time(), cpu_s(server)

    async def client(number: int) -> list[Answer]:
        answers: list[Answer] = []
        async with new() as ask:
            while not answers or time.perf_counter() - began < seconds:
                answers.append(await ask(number + num_clients * len(answers)))
        return answers

    found = await asyncio.gather(*(client(n) for n in range(num_clients)))
    ended_s = cpu_s(server)
    return Drive(
        answers=found,
        wall_s=time.perf_counter() - began,
        clients_cpu_s=time.process_time() - own_s,
        server_cpu_s=None if server_s is None or ended_s is None else ended_s - server_s,
    )


@contextlib.contextmanager
def serving(command: list[str]) -> Iterator[tuple[str, int]]:
    """Run a server until it answers; its address and its process."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                    break
            else:
                raise SystemExit(f"{' '.join(command)} did not start")
            # A log that nobody reads would fill the pipe, and hold the server up.
            threading.Thread(target=process.stdout.read, daemon=True).start()
            ready, deadline = f"{found[0]}/v1/health/ready", time.monotonic() + LIMIT_S
            # llama-cpp-python's server has no such route, and loads before it listens.
            while httpx.get(ready).status_code == 503:
                if time.monotonic() > deadline:
                    raise SystemExit(f"{' '.join(command)} does not get ready")
                time.sleep(0.2)
            yield found[0], process.pid
        finally:
            process.terminate()
            process.communicate(timeout=60)


async def measure(url: str, server: int, options: argparse.Namespace, *, is_peer: bool) -> dict[str, Any]:
    """All that is asked of one server."""

    async def drive_at(num_clients: int, seconds: float) -> Drive:
        return await drive(
            lambda: over_http(url, options.banned), num_clients=num_clients, seconds=seconds, server=server
        )

    await drive_at(2, 1)  # warm: the persona is read
    figures = {"one client": (await drive_at(1, options.seconds / 4)).told()}
    figures[f"{options.clients} clients"] = (await drive_at(options.clients, options.seconds)).told()
    if not is_peer:
        figures["8 clients"] = (await drive_at(8, options.seconds / 4)).told()
        crowd = (await drive_at(options.crowd, 0)).answers
        longest = max(answer.total_s for own in crowd for answer in own)
        figures[f"a crowd of {options.crowd}"] = {
            "outcomes": dict(Counter(own[0].outcome for own in crowd)),
            "longest_s": round(longest, 1),
        }
    return figures


async def measure_bare(options: argparse.Namespace) -> dict[str, Any]:
    """The engine alone, in this process."""
    from understudy.npc.model import Model

    with Model.load(options.model) as model:

        @contextlib.asynccontextmanager
        async def seated() -> AsyncIterator[Ask]:
            yield lambda number: bare(model, number, options.banned)

        await drive(seated, num_clients=2, seconds=1)
        return {
            f"bare engine, {n} clients": (await drive(seated, num_clients=n, seconds=options.seconds / 4)).told()
            for n in (1, 8, options.clients)
        }


def final_ids(path: Path) -> tuple[int, ...]:
    """Tokens that end an answer."""
    from understudy.model.checkpoint import load_model
    from understudy.prompt import stop_token_ids

    files = load_model(path)
    return tuple(sorted(stop_token_ids(files.tokenizer, files.config.eos_token_id)))


def peer_command(model: Path) -> list[str]:
    """llama-cpp-python's server; it answers one request at a time, and without this option drops the one before."""
    words = [
        "--model",
        str(model),
        "--host",
        "127.0.0.1",
        "--port",
        "8137",
        "--interrupt_requests",
        "false",
        "--n_ctx",
        "4096",
    ]
    return [sys.executable, "-u", "-m", "llama_cpp.server", *words, "--n_threads", str(os.cpu_count())]


def main() -> None:
    """Measure, print, and end with 1 where a limit is broken."""
    from understudy.model.embedded import embedded_model_path

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="a GGUF file; default: the embedded model")
    parser.add_argument("--seconds", type=float, default=300, help="how long all clients ask (default: 300)")
    parser.add_argument("--clients", type=int, default=64, help="streaming clients (default: 64)")
    parser.add_argument("--crowd", type=int, default=200, help="clients that come at once (default: 200)")
    parser.add_argument("--peer", action="store_true", help="measure llama-cpp-python's server instead")
    parser.add_argument("--full-length", action="store_true", help=f"ban what ends answers before {MAX_TOKENS} tokens")
    options = parser.parse_args()
    model = options.model or embedded_model_path()
    options.banned = final_ids(model) if options.full_length else ()
    ours = [sys.executable, "-u", "-m", "understudy.cli", "serve", "--model", f"harrow={model}", "--port", "0"]
    with serving(peer_command(model) if options.peer else ours) as (url, pid):
        figures = asyncio.run(measure(url, pid, options, is_peer=options.peer))
    if not options.peer:
        figures |= asyncio.run(measure_bare(options))
    print(f"{' '.join(['python -m benchmarks.load', *sys.argv[1:]])}\n{commit()}, {hardware()}")
    print(f"{datetime.date.today()}, load average {os.getloadavg()[0]:.1f} at the end")
    for name, found in figures.items():
        print(f"{name}: {json.dumps(found)}")
    broken = verdict(figures, options)
    print("\n".join(broken) or "All limits hold.")
    raise SystemExit(bool(broken))


def verdict(figures: dict[str, Any], options: argparse.Namespace) -> list[str]:
    """The limits that are broken; overhead is only told."""
    one, many = figures["one client"], figures[f"{options.clients} clients"]
    broken = []
    if set(many["outcomes"]) != {"answered"}:
        broken.append(f"errors: {many['outcomes']}")
    elif many["first_token_p99_s"] > MAX_RATIO * many["first_token_p50_s"]:
        broken.append(f"p99 to the first token is more than {MAX_RATIO:g} times p50")
    gain = many["tokens_per_s"] / one["tokens_per_s"]
    print(f"{options.clients} clients together are {gain:.2f} times as fast as one")
    if gain < MIN_GAIN:
        broken.append(f"that is less than {MIN_GAIN:g} times")
    crowd = figures.get(f"a crowd of {options.crowd}")
    if crowd and not set(crowd["outcomes"]) <= {"answered", "refused"}:
        broken.append(f"of the crowd: {crowd['outcomes']}")
    for n in (8, options.clients):
        if alone := figures.get(f"bare engine, {n} clients"):
            share = 1 - figures[f"{n} clients"]["tokens_per_s"] / alone["tokens_per_s"]
            print(f"HTTP, its clients and the engine's waiting for them cost {share:.1%} at {n} clients")
    return broken


if __name__ == "__main__":
    main()
