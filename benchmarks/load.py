"""Many clients at one server: python -m benchmarks.load [--seconds 300] [--clients 64] [--crowd 200] [--peer].

`understudy serve` runs as a process of its own; the clients stream from it, on the same machine. First one client,
then all of them for as long as asked, then a crowd that comes at once, more than the server lets wait. Then the same
answers without HTTP, from the bare engine. `--peer` asks llama-cpp-python's server, with the same file, the same.
Tokens are pieces of text where a server does not count them. Needs httpx; the peer the extra `bench` and
`pip install "llama-cpp-python[server]"`.
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
from collections.abc import Awaitable, Callable, Iterator
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


def messages(number: int) -> list[dict[str, str]]:
    """A conversation; lines differ from client to client, the persona does not."""
    line = f"{LINES[number % len(LINES)]} I am guest number {number}."
    return [{"role": "system", "content": PERSONA}, {"role": "user", "content": line}]


async def over_http(client: httpx.AsyncClient, url: str, number: int) -> Answer:
    """Stream an answer."""
    body = {
        "model": "harrow",
        "messages": messages(number),
        "max_tokens": MAX_TOKENS,
        "temperature": 0.8,
        "seed": number,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    began, first_s, num_pieces, usage, is_done = time.perf_counter(), 0.0, 0, None, False
    try:
        async with client.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
            if response.status_code != 200:
                is_refusal = response.status_code == 429 and "retry-after" in response.headers
                outcome = "refused" if is_refusal else f"status {response.status_code}"
                return Answer(outcome=outcome, total_s=time.perf_counter() - began)
            async for line in response.aiter_lines():
                is_done = is_done or line == "data: [DONE]"
                if not line.startswith("data: {"):
                    continue
                chunk: dict[str, Any] = json.loads(line[6:])
                if "error" in chunk:
                    return Answer(outcome=f"error {chunk['error']['message']}")
                usage = chunk.get("usage") or usage
                if any(choice["delta"].get("content") for choice in chunk["choices"]):
                    first_s = first_s or time.perf_counter() - began
                    num_pieces += 1
    except httpx.TimeoutException:
        return Answer(outcome="hung", total_s=time.perf_counter() - began)
    except httpx.HTTPError as error:
        return Answer(outcome=type(error).__name__)
    num_tokens = usage["completion_tokens"] if usage else num_pieces
    total_s = time.perf_counter() - began
    return Answer(
        outcome="answered" if is_done else "cut off",
        first_s=first_s or total_s,  # an answer without words
        total_s=total_s,
        num_tokens=num_tokens,
    )


async def bare(model: "Model", number: int) -> Answer:
    """The same answer without a server."""
    from understudy.prompt import Conversation, Message

    talk = Conversation(messages=tuple(Message(**message) for message in messages(number)))  # type: ignore[arg-type]
    sampling = dataclasses.replace(model.default_sampling, temperature=0.8, seed=number)
    began, first_s = time.perf_counter(), 0.0
    generation = await asyncio.to_thread(model.generate, talk, sampling=sampling, max_tokens=MAX_TOKENS)
    async for chunk in generation:
        first_s = first_s or (time.perf_counter() - began if chunk.text else 0.0)
    total_s = time.perf_counter() - began
    num_tokens = generation.usage.completion_tokens
    return Answer(outcome="answered", first_s=first_s or total_s, total_s=total_s, num_tokens=num_tokens)


async def drive(ask: Ask, *, num_clients: int, seconds: float) -> tuple[list[list[Answer]], float]:
    """Let each client ask again and again; their answers, and tokens a second until the last one ended."""
    print(f"{num_clients} clients for {seconds:g} s", file=sys.stderr, flush=True)
    began = time.perf_counter()

    async def client(number: int) -> list[Answer]:
        answers: list[Answer] = []
        while not answers or time.perf_counter() - began < seconds:
            answers.append(await ask(number + num_clients * len(answers)))
        return answers

    found = await asyncio.gather(*(client(n) for n in range(num_clients)))
    num_tokens = sum(answer.num_tokens for answers in found for answer in answers)
    return found, num_tokens / (time.perf_counter() - began)


def told(found: list[list[Answer]], tokens_per_s: float) -> dict[str, Any]:
    """The figures of a drive."""
    answers = [answer for own in found for answer in own]
    first = sorted(answer.first_s for answer in answers if answer.outcome == "answered")
    return {
        "outcomes": dict(Counter(answer.outcome for answer in answers)),
        "tokens_per_s": round(tokens_per_s, 1),
        "first_token_p50_s": round(statistics.median(first), 3) if first else None,
        "first_token_p99_s": round(first[min(len(first) - 1, int(0.99 * len(first)))], 3) if first else None,
        "first_token_max_s": round(first[-1], 3) if first else None,
        "fewest_answers_of_a_client": min(sum(a.outcome == "answered" for a in own) for own in found),
    }


@contextlib.contextmanager
def serving(command: list[str]) -> Iterator[str]:
    """Run a server until it answers; its address."""
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
            yield found[0]
        finally:
            process.terminate()
            process.communicate(timeout=60)


async def measure(url: str, options: argparse.Namespace, *, is_peer: bool) -> dict[str, Any]:
    """All that is asked of one server."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(timeout=LIMIT_S, limits=limits) as client:

        def ask(number: int) -> Awaitable[Answer]:
            return over_http(client, url, number)

        await drive(ask, num_clients=2, seconds=1)  # warm: the persona is read
        figures = {"one client": told(*await drive(ask, num_clients=1, seconds=options.seconds / 4))}
        figures[f"{options.clients} clients"] = told(
            *await drive(ask, num_clients=options.clients, seconds=options.seconds)
        )
        if not is_peer:
            figures["8 clients"] = told(*await drive(ask, num_clients=8, seconds=options.seconds / 4))
            crowd, _ = await drive(ask, num_clients=options.crowd, seconds=0)
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

        def ask(number: int) -> Awaitable[Answer]:
            return bare(model, number)

        await drive(ask, num_clients=2, seconds=1)
        return {
            f"bare engine, {n} clients": told(*await drive(ask, num_clients=n, seconds=options.seconds / 4))
            for n in (8, options.clients)
        }


def peer_command(model: Path) -> list[str]:
    """llama-cpp-python's server; it answers one request at a time, and without this option drops the one before."""
    words = ["--model", str(model), "--port", "8137", "--interrupt_requests", "false", "--n_ctx", "4096"]
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
    options = parser.parse_args()
    model = options.model or embedded_model_path()
    ours = [sys.executable, "-u", "-m", "understudy.cli", "serve", "--model", f"harrow={model}", "--port", "0"]
    with serving(peer_command(model) if options.peer else ours) as url:
        figures = asyncio.run(measure(url, options, is_peer=options.peer))
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
