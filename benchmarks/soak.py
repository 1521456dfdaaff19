"""Sixteen clients that ask, cancel and vanish at random: no leak, no wrong owner of a block, every answer as if alone.

Run: python benchmarks/soak.py [MINUTES] [MODEL.gguf]      (default: 10 minutes, the embedded model)

First every request is answered alone, with its own seed. Then the clients send the same requests, all at once: some
read to the end (and must get the same tokens), some cancel amid the prompt or the answer, some drop the generation
without a word, some set a deadline. At the end all blocks of the KV cache must be free or held by kept
prefixes, with owners that add up, and memory must not have grown by more than 2 % after the first minute. Linux.
"""

import dataclasses
import gc
import random
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from understudy.engine import Engine, EngineOptions, GenerationRequest, SamplingParams
from understudy.model.checkpoint import load_model
from understudy.model.embedded import embedded_model_path
from understudy.model.native_backend import CpuBackend
from understudy.prompt import Conversation, Message, encode_pieces, render

NUM_CLIENTS = 16
NUM_REQUESTS = 60
MAX_GROWTH = 0.02


def requests(model: Path) -> list[GenerationRequest]:
    """Requests of many lengths; personas are shared, so that caches are forked all the time."""
    tokenizer = load_model(model).tokenizer
    rng = random.Random(4)
    found = []
    for number in range(NUM_REQUESTS):
        system = "You are the innkeeper. " + "You keep a warm house and a good table. " * (number % 5 * 8)
        line = f"Room {rng.randint(1, 999)}, please, and a bowl of soup number {number}."
        talk = Conversation(messages=(Message(role="system", content=system), Message(role="user", content=line)))
        found.append(
            GenerationRequest(
                prompt_ids=tuple(encode_pieces(render(talk), tokenizer)[0]),
                sampling=SamplingParams(temperature=0.8, seed=number),
                max_tokens=rng.randint(5, 60),
                priority=number % 3,
            )
        )
    return found


def client(
    number: int, engine: Engine, asked: list[GenerationRequest], alone: list[list[int]], until: float
) -> Counter:
    """Ask until the time is over; what was done, by name."""
    rng, done = random.Random(number), Counter()
    while time.monotonic() < until:
        index = rng.randrange(len(asked))
        manner = rng.choice(("read", "read", "cancel", "vanish", "deadline"))
        request = asked[index]
        if manner == "deadline":
            request = dataclasses.replace(request, deadline_s=rng.uniform(0.001, 0.2))
        generation = engine.submit(request)
        if manner in ("read", "deadline"):
            tokens = [i for chunk in generation for i in chunk.token_ids]
            expected = alone[index]
            if tokens != expected[: len(tokens)] or (manner == "read" and tokens != expected):
                raise SystemExit(f"request {index} gave {tokens}, alone {expected}")
        else:
            for n, _ in enumerate(generation if rng.random() < 0.7 else ()):
                if n == rng.randrange(8):
                    break
            if manner == "cancel":
                generation.cancel()
        done[manner] += 1
    return done


def resident_bytes() -> int:
    """Memory of this process now."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096


def main() -> None:
    """Print a line a minute, and the verdict."""
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 10
    model = Path(sys.argv[2]) if len(sys.argv) > 2 else embedded_model_path()
    asked = requests(model)
    files = load_model(model)
    alone = []
    for request in asked:
        with Engine(CpuBackend(files.config, files.weights), files.tokenizer) as engine:
            alone.append([i for chunk in engine.submit(request) for i in chunk.token_ids])
    backend = CpuBackend(files.config, files.weights, cache_bytes=64 << 20)
    engine = Engine(backend, files.tokenizer, options=EngineOptions(max_running=8, prefill_tokens=64))
    until = time.monotonic() + 60 * minutes
    totals: list[Counter] = []
    threads = [
        threading.Thread(target=lambda n=n: totals.append(client(n, engine, asked, alone, until)))
        for n in range(NUM_CLIENTS)
    ]
    for thread in threads:
        thread.start()
    base = 0
    while any(thread.is_alive() for thread in threads):
        time.sleep(min(60, max(1, until - time.monotonic() + 1)))
        stats = engine.stats()
        base = base or resident_bytes()
        print(
            f"{resident_bytes() / 1e6:.1f} MB, {stats.generated_tokens} tokens, {stats.cached_tokens} read from cache"
        )
    growth = resident_bytes() / base - 1
    if len(totals) < NUM_CLIENTS:
        raise SystemExit("a client failed")
    engine.close()
    pool = backend._blocks
    held = [b for cache in engine._prefixes.caches() for b in cache.blocks]  # type: ignore[attr-defined]
    gc.collect()
    wrong = [b for b in range(pool.num_blocks) if pool.num_owners(b) != held.count(b)]
    print(f"{sum(totals, Counter())}; memory grew by {growth:.1%}; blocks with a wrong number of owners: {len(wrong)}")
    if wrong or growth > MAX_GROWTH:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
