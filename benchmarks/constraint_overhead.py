"""What a grammar costs a decode step: calls held to their schemas, and free text, side by side.

Usage: python -m benchmarks.constraint_overhead [--model FILE] [--threads N] [--vocabulary 256000] [--rounds 5]
       [--cpu-time]

Columns: the forward pass; what the engine does between two of them, where the answer is free and where it is held;
the difference as a share of a free step; tokens that were forced; forward passes of a sequence without and with
drafts, for the same tokens. The two are measured in turn, batch by batch, so that a busy machine is slow for both.
A step counts where every sequence reads one token: forced tokens, which make steps longer and fewer, are counted
apart. The cost has also what it takes to draw where the model would rather say something else; then follow the masks
alone, over the model's own vocabulary and, with `--vocabulary`, over so many tokens, made of pairs of its words.

Random weights of a bigger model, whose tokenizer only spells bytes (`understudy synth 4b.gguf`), get such a vocabulary
too, as many tokens as the model has rows: `--model 4b.gguf --rounds 1` measures masks of the real size in the engine.
"""

import argparse
import datetime
import itertools
import os
import platform
import random
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from understudy.engine import Engine, EngineOptions, GenerationRequest, SamplingParams
from understudy.engine.constraint import TokenGate
from understudy.engine.sampling import Sampler
from understudy.model.checkpoint import load_model
from understudy.model.embedded import embedded_model_path
from understudy.model.native_backend import CpuBackend
from understudy.prompt.template import stop_token_ids
from understudy.tools.grammar import tool_grammar
from understudy.tools.guidance import GuidanceVocabulary

PROMPT = "The innkeeper writes down who sleeps where, what was eaten, and who still owes her a penny. " * 3
TEXT = {"type": "string", "minLength": 30, "maxLength": 60}
NOTE = {
    "guest": {"type": "string", "maxLength": 20},
    "room": {"enum": ["river", "attic", "stable"]},
    "nights": {"type": "integer", "minimum": 1, "maximum": 30},
    "what": TEXT,
    "why": TEXT,
    "owed": {"type": "number", "minimum": 0, "maximum": 100},
}
TOOLS: list[dict[str, Any]] = [
    {"name": "note", "parameters": {"type": "object", "properties": NOTE, "required": [*NOTE]}},
    {"name": "rest", "parameters": {"type": "object", "properties": {"hours": {"type": "integer"}}}},
    {"name": "bar_door"},
]
CALL = (
    ' {"name": "note", "arguments": {"guest": "Bren", "room": "attic", "nights": 2, "what": "two bowls of stew and a '
    'loaf of bread", "why": "the ferry was late and the river high", "owed": 4.5}} '
)


class TimedBackend(CpuBackend):
    """Remembers when each forward pass began and ended, and how many tokens it read of each sequence."""

    clock: Callable[[], float] = staticmethod(time.perf_counter)
    steps: list[tuple[float, float, tuple[int, ...]]]

    def forward(self, batch: Sequence[Any]) -> Any:
        begun = self.clock()
        logits = super().forward(batch)
        self.steps.append((begun, self.clock(), tuple(len(step.token_ids) for step in batch)))
        return logits


def step_ms(steps: Sequence[tuple[float, float, tuple[int, ...]]], batch: int) -> list[tuple[float, float]]:
    """The forward pass, and what the engine does until the next, where both read one token of every sequence."""
    one = (1,) * batch
    pairs = itertools.pairwise(steps)
    return [(1e3 * (b[1] - b[0]), 1e3 * (a[0] - b[1])) for b, a in pairs if b[2] == a[2] == one]


def measure(path: Path | None, threads: int | None, rounds: int, *, is_cpu_time: bool) -> None:
    model = load_model(path or embedded_model_path())
    backend = TimedBackend(model.config, model.weights, num_threads=threads)
    backend.steps = []
    if is_cpu_time:
        backend.clock = time.thread_time
    middle = statistics.mean if is_cpu_time else statistics.median  # a processor's clock may tick in milliseconds
    tokenizer: Any = model.tokenizer
    if tokenizer.token_bytes(tokenizer.vocab_size - 1).startswith(b"<unused_"):  # random weights
        tokenizer = WideTokenizer(load_model(embedded_model_path()).tokenizer, model.config.vocab_size)
    stops = stop_token_ids(tokenizer, model.config.eos_token_id)
    vocabulary = GuidanceVocabulary(tokenizer, vocab_size=model.config.vocab_size, stop_token_ids=stops)
    held = vocabulary.compile(tool_grammar(TOOLS, tokenizer, choice={"function": {"name": "note"}}))
    print(
        f"{model.path.name}: {model.config.num_parameters / 1e6:.0f} M parameters, V {model.config.vocab_size}", end=""
    )
    print(
        f", {backend.name}"
        + (", pairs of Harrow's words as its vocabulary" if tokenizer is not model.tokenizer else "")
    )
    print(
        f"{'batch':>5} {'forward ms':>11} {'free ms':>9} {'held ms':>9} {'cost':>7} {'forced':>7} {'with drafts':>14}"
    )
    prompt = tuple(tokenizer.encode(PROMPT))

    def request(seed: int, constraint: Callable[[], Any] | None) -> GenerationRequest:
        sampling = SamplingParams(temperature=0.7, top_p=0.9, seed=seed)
        return GenerationRequest(prompt_ids=prompt, sampling=sampling, max_tokens=100, constraint=constraint)

    for batch in (1, 8):
        times: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
        num_tokens = num_read = 0
        with Engine(backend, tokenizer, options=EngineOptions(use_drafts=False)) as engine:
            for number in range(2 * rounds):
                is_held = bool(number % 2)
                backend.steps = []
                generations = [
                    engine.submit(request(number // 2 * batch + n, held if is_held else None)) for n in range(batch)
                ]
                for generation in generations:
                    generation.text()
                times[is_held] += step_ms(backend.steps, batch)
                if is_held:
                    num_tokens += sum(g.usage.completion_tokens for g in generations)
                    num_read += sum(len(s[2]) for s in backend.steps)
        forward, rest = (middle(column) for column in zip(*times[False], strict=True))
        held_rest = middle([r for _, r in times[True]])
        read = drafts(backend, tokenizer, [request(n, held) for n in range(batch)])
        cost, forced = (held_rest - rest) / (forward + rest), 1 - num_read / num_tokens
        print(f"{batch:5} {forward:11.3f} {rest:8.3f} {held_rest:8.3f} {cost:6.1%} {forced:7.1%} {read:>12}")


def drafts(backend: TimedBackend, tokenizer: Any, requests: Sequence[GenerationRequest]) -> str:
    """Steps with drafts and without, for the same tokens."""
    if not backend.draft_tokens:
        return "none here"
    told, counts = [], []
    for use_drafts in (False, True):
        backend.steps = []
        with Engine(backend, tokenizer, options=EngineOptions(use_drafts=use_drafts)) as engine:
            generations = [engine.submit(r) for r in requests]
            told.append([[i for chunk in g for i in chunk.token_ids] for g in generations])
        counts.append(sum(len(step[2]) for step in backend.steps))
    if told[0] != told[1]:
        raise SystemExit("Drafts changed the tokens: that is a fault of the engine.")
    return f"{counts[0]} -> {counts[1]}"


class WideTokenizer:
    """A model's vocabulary, and pairs of its words up to V; only what masks need of a tokenizer."""

    def __init__(self, tokenizer: Any, size: int) -> None:
        self.specials, self.encode, self.special_id = tokenizer.specials, tokenizer.encode, tokenizer.special_id
        base = [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
        words = [b for b in base if b.strip().isalpha()]
        tails = [b for b in words if not b.startswith(b" ")]
        chance, seen = random.Random(0), dict.fromkeys(base)
        while len(seen) < size:
            seen[chance.choice(words) + chance.choice(tails)] = None
        self.tokens = base + [*seen][len({*base}) :]
        self.vocab_size = len(self.tokens)

    def token_bytes(self, token_id: int) -> bytes:
        return self.tokens[token_id]


def measure_masks(size: int, rounds: int, clock: Callable[[], float]) -> None:
    base = load_model(embedded_model_path()).tokenizer
    tokenizer: Any = WideTokenizer(base, size) if size > base.vocab_size else base
    vocabulary = GuidanceVocabulary(tokenizer, vocab_size=tokenizer.vocab_size, stop_token_ids=frozenset({3}))
    held = vocabulary.compile(tool_grammar(TOOLS, tokenizer))
    logits = np.random.default_rng(0).standard_normal(tokenizer.vocab_size).astype(np.float32)
    token_ids = [*base.encode(CALL), base.specials["</toolcall>"]]

    def spent_ms(of_token: Callable[[TokenGate, Sampler], object]) -> float:
        """A token of the call, beside following it."""
        constraint = held()
        constraint.accept(base.specials["<toolcall>"])
        gate = TokenGate(constraint, stop_token_ids=frozenset({3}))
        sampler = Sampler(SamplingParams(temperature=0.7, top_p=0.9, seed=1))
        begun = clock()
        for token_id in token_ids:
            of_token(gate, sampler)
            gate.take(token_id)
            while gate.next_forced() is not None:
                pass
        return 1e3 * (clock() - begun) / len(token_ids)

    size = tokenizer.vocab_size
    work: dict[str, Callable[[TokenGate, Sampler], object]] = {
        "follow": lambda *_: None,
        "mask and follow": lambda gate, _: gate.allowed(size),
        "mask, draw and follow": lambda gate, sampler: sampler.sample(logits, gate.allowed(size)),
        "draw of all, and follow": lambda _, sampler: sampler.sample(logits),
    }
    took = {name: statistics.median(spent_ms(of_token) for _ in range(4 * rounds)) for name, of_token in work.items()}
    print(f"masks alone, V {size}, ms a token of a call: " + ", ".join(f"{n} {ms:.3f}" for n, ms in took.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="GGUF file or folder; default: the embedded model")
    parser.add_argument("--threads", type=int, help="default: all cores")
    parser.add_argument("--cpu-time", action="store_true", help="of one thread, and means: for a busy machine")
    parser.add_argument("--vocabulary", type=int, help="also the masks alone, over so many tokens")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    machine = f"{platform.machine()}, {os.cpu_count()} cores, load {load:.1f}"
    print(f"{datetime.date.today()}, commit {commit.strip()}, {machine}")
    threads = 1 if arguments.cpu_time else arguments.threads
    measure(arguments.model, threads, arguments.rounds, is_cpu_time=arguments.cpu_time)
    clock = time.thread_time if arguments.cpu_time else time.perf_counter
    for size in (0, arguments.vocabulary) if arguments.vocabulary else (0,):
        measure_masks(size, arguments.rounds, clock)


if __name__ == "__main__":
    main()
