"""Sixteen clients that ask, cancel and vanish at random: no leak, no wrong owner of a block, every answer as if alone.

Run: python benchmarks/soak.py [MINUTES] [MODEL.gguf]      (default: 10 minutes, the embedded model)

First every request is answered alone, with its own seed. Then the clients send the same requests, all at once: some
read to the end (and must get the same tokens), some cancel amid the prompt or the answer, some drop the generation
without a word, some set a deadline. At the end all blocks of the KV cache must be free or held by kept
prefixes, with owners that add up, and once these are forgotten all must be free; memory must not have grown by more
than 2 %. The minutes count from when the clients have used every request in every manner, which takes longer on a busy
machine; compared are the median of the first minute from there and that of the last. Linux.
"""

import dataclasses
import gc
import math
import random
import statistics
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
MANNERS = ("read", "cancel", "vanish", "deadline")
WEIGHTS = (2, 1, 1, 1)


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
    number: int,
    engine: Engine,
    asked: list[GenerationRequest],
    alone: list[list[int]],
    seen: set[tuple[int, str]],
    stop: threading.Event,
) -> Counter:
    """Ask until told to stop; what was done, by name. `seen` gets each request and manner."""
    rng, done = random.Random(number), Counter()
    while not stop.is_set():
        index = rng.randrange(len(asked))
        manner = rng.choices(MANNERS, WEIGHTS)[0]
        request = asked[index]
        if manner == "deadline":
            request = dataclasses.replace(request, deadline_s=rng.uniform(0.001, 0.2))
        generation = engine.submit(request)
        if manner in ("read", "deadline"):
            tokens = [i for chunk in generation for i in chunk.token_ids]
            expected = alone[index]
            if tokens != expected[: len(tokens)] or (manner == "read" and tokens != expected):
                raise AssertionError(f"request {index} gave {tokens}, alone {expected}")
        else:
            for n, _ in enumerate(generation if rng.random() < 0.7 else ()):
                if n == rng.randrange(8):
                    break
            if manner == "cancel":
                generation.cancel()
        seen.add((index, manner))
        done[manner] += 1
    return done


def resident_bytes() -> int:
    """Memory of this process now."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096


def touch_blocks(backend: CpuBackend) -> None:
    """Write to every block of the cache once, so that memory which is only used for the first time is no growth."""
    for block in range(1, backend._blocks.num_blocks):
        backend._pool.copy_block(0, block)


def watch(engine: Engine, threads: list[threading.Thread], seen: set[tuple[int, str]], minutes: float) -> float:
    """Wait until all was seen, then so many minutes, or until a client failed; the growth of memory in these."""
    window_s = min(60.0, 60 * minutes / 4)
    while len(seen) < NUM_REQUESTS * len(MANNERS) and all(thread.is_alive() for thread in threads):
        time.sleep(1)
    if not all(thread.is_alive() for thread in threads):
        return math.inf
    print("every request was seen in every manner; the minutes begin", flush=True)
    began, samples, reported = time.monotonic(), [], 0
    while (passed := time.monotonic() - began) < 60 * minutes and all(thread.is_alive() for thread in threads):
        samples.append((passed, resident_bytes()))
        if passed >= 60 * reported:
            stats, reported = engine.stats(), reported + 1
            tokens = f"{stats.generated_tokens} tokens, {stats.cached_tokens} read from cache"
            print(f"{samples[-1][1] / 1e6:.1f} MB, {tokens}", flush=True)
        time.sleep(window_s / 60)
    base = statistics.median(held for passed, held in samples if passed <= window_s)
    last = statistics.median(held for passed, held in samples if passed >= samples[-1][0] - window_s)
    return last / base - 1


def count_wrong_blocks(engine: Engine, backend: CpuBackend) -> tuple[int, int]:
    """Blocks of a closed engine that have other owners than the kept prefixes, and those still owned without these."""
    pool, prefixes = backend._blocks, engine._prefixes
    gc.collect()
    held = Counter(block for cache in prefixes.caches() for block in cache.blocks)  # type: ignore[attr-defined]
    wrong = sum(pool.num_owners(block) != held[block] for block in range(pool.num_blocks))
    while prefixes.drop_oldest():
        pass
    gc.collect()
    return wrong, pool.num_blocks - pool.num_free


def main() -> None:
    """Print a line a minute, and the verdict."""
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 10
    model = Path(sys.argv[2]) if len(sys.argv) > 2 else embedded_model_path()
    asked = requests(model)
    files = load_model(model)
    alone, backend = [], CpuBackend(files.config, files.weights, cache_bytes=64 << 20)
    for request in asked:
        with Engine(backend, files.tokenizer) as engine:  # it knows no other request
            alone.append([i for chunk in engine.submit(request) for i in chunk.token_ids])
    print(f"{len(alone)} requests answered alone", flush=True)
    touch_blocks(backend)
    engine = Engine(backend, files.tokenizer, options=EngineOptions(max_running=8, prefill_tokens=64))
    totals: list[Counter] = []
    seen: set[tuple[int, str]] = set()
    stop = threading.Event()
    threads = [
        threading.Thread(target=lambda n=n: totals.append(client(n, engine, asked, alone, seen, stop)))
        for n in range(NUM_CLIENTS)
    ]
    for thread in threads:
        thread.start()
    growth = watch(engine, threads, seen, minutes)
    stop.set()
    for thread in threads:
        thread.join()
    engine.close()
    if len(totals) < NUM_CLIENTS:
        raise SystemExit("a client failed; its words stand above")
    wrong, leaked = count_wrong_blocks(engine, backend)
    print(
        f"{dict(sum(totals, Counter()))}; memory grew by {growth:.1%}; blocks with a wrong number of owners: {wrong}; "
        f"owned when all is forgotten: {leaked}"
    )
    if wrong or leaked or growth > MAX_GROWTH:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
