"""CPU time of the thread that hands one token of a model to the GPU, by part, as C++ and as Python record it.

Usage: LP_NUM_THREADS=1 python -m benchmarks.gpu_record [--layers 32] [--tokens 20]

A random model of the 4B's depth and narrow layers: seven dispatches a layer and one for the head, as many commands as
the 4B has but for its head's other slabs. What the driver's own threads take is not counted, so software Vulkan will
do. `record` is all from a new encoder to `finish`; `python` is all of a forward pass that is none of the others;
`fetch` waits for logits and copies them.
"""

import argparse
import collections
import datetime
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from typing import Any

from understudy.engine.backend import Step
from understudy.kernels.gpu_adapters import list_adapters
from understudy.kernels.gpu_players import CffiPlayer
from understudy.model.gpu_limits import GpuLimits
from understudy.model.wgpu_backend import WgpuBackend
from understudy.testing import tiny_model

PARTS = ("python", "write", "record", "submit")


class Clock:
    """Adds up a thread's CPU time by part; a function's own hook."""

    def __init__(self) -> None:
        self.spent: collections.Counter[str] = collections.Counter()

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            began = time.thread_time_ns()
            try:
                return function(*arguments)
            finally:
                self.spent[part] += time.thread_time_ns() - began

        return run


def measure(backend: WgpuBackend, num_tokens: int, clock: Clock) -> tuple[list[int], dict[str, float]]:
    """Greedy tokens, and the median milliseconds of each part."""
    cache, token = backend.new_cache(), 1
    tokens, rows = [], []
    for _ in range(num_tokens + 4):
        clock.spent.clear()
        began = time.thread_time_ns()
        logits = backend.forward([Step(cache, [token])])[0]
        total = time.thread_time_ns() - began
        rows.append({**clock.spent, "python": total - sum(clock.spent.values())})
        token = int(logits[-1].argmax())
        tokens.append(token)
    return tokens, {part: statistics.median(row[part] for row in rows[4:]) / 1e6 for part in rows[-1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=20)
    arguments = parser.parse_args()
    model = tiny_model(num_hidden_layers=arguments.layers, hidden_size=64, intermediate_size=64)
    adapter = list_adapters()[0]
    limits = GpuLimits(submission_ms=1000)  # a slow GPU, as software is, would get a token in pieces
    backend = WgpuBackend(model.config, model.weights, adapter, limits=limits, cache_tokens=256)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    print(f"commit {commit.stdout.strip()}  {datetime.date.today()}  {platform.machine()}  {adapter}")
    print(f"{backend.num_dispatches()} dispatches, median of {arguments.tokens} tokens, milliseconds of CPU time")
    commands, said = backend._device._commands, []
    fetch = commands.fetch
    for player in (commands.player, CffiPlayer(*commands.player_arguments)):
        clock = Clock()
        commands.fetch = clock.timed("fetch", fetch)  # type: ignore[method-assign]
        for part in PARTS[1:]:
            setattr(player, part, clock.timed(part, getattr(player, part)))
        commands.player = player
        backend._model._schedules.clear()
        backend._model._ahead = None
        tokens, spent = measure(backend, arguments.tokens, clock)
        said.append(tokens)
        handed = sum(spent[part] for part in PARTS)
        columns = "  ".join(f"{part} {spent[part]:.3f}" for part in PARTS)
        print(f"{type(player).__name__:<13} {columns}  = {handed:.3f}; fetch {spent['fetch']:.3f}")
    print(f"same tokens: {said[0] == said[1]}")
    backend.close()


if __name__ == "__main__":
    main()
