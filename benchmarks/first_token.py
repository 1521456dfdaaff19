"""How long a player waits: loading, first token, tokens a second, memory. Usage: make bench [ARGS="--model FILE"].

Each repetition is a process of its own. The first turn meets a cold cache; the second turn's prompt begins with the
first's, so that only the new line has to be read. The rate is that of a longer answer, which no marker ends.
"""

import argparse
import dataclasses
import datetime
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from understudy.engine import Engine
    from understudy.model.checkpoint import LoadedModel

ROOT = Path(__file__).parents[1]
NUM_TOKENS = 64
FIRST_LINE = "Good evening. Who are you, and what can I eat here?"
SECOND_LINE = "And where does the ferry leave from?"


def measure(model: Path | None) -> dict[str, float]:
    """Load a model, speak two turns, and report what it took in this process."""
    started = time.perf_counter()
    from understudy.engine import Engine
    from understudy.model.backends import open_backend
    from understudy.model.checkpoint import load_model
    from understudy.model.embedded import embedded_model_path

    imported = time.perf_counter()
    loaded = load_model(model or embedded_model_path())
    backend = open_backend(loaded.config, loaded.weights)
    ready = time.perf_counter()
    with Engine(backend, loaded.tokenizer) as engine:
        first = speak(engine, loaded, [FIRST_LINE], is_stopping=True)
        second = speak(engine, loaded, [FIRST_LINE, first.text, SECOND_LINE], is_stopping=True)
        long = speak(engine, loaded, [SECOND_LINE], is_stopping=False)
    return {
        "import the runtime (s)": imported - started,
        "load the model (s)": ready - imported,
        "first token, first turn (s)": first.wait_s,
        "  prompt tokens read": first.num_read,
        "first token, second turn (s)": second.wait_s,
        "  prompt tokens read again": second.num_read,
        "tokens a second": long.tokens_per_s,
        "peak memory (MB)": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "model file (MB)": loaded.file_bytes / 1e6,
        "parameters (M)": loaded.config.num_parameters / 1e6,
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer and what it took; `num_read` prompt tokens were not in a cache."""

    text: str
    wait_s: float
    num_read: int
    tokens_per_s: float


def speak(engine: "Engine", loaded: "LoadedModel", lines: list[str], *, is_stopping: bool) -> Answer:
    """Ask the innkeeper of the sample world; `lines` alternate between the player and her."""
    from understudy.engine import GenerationRequest, SamplingParams
    from understudy.prompt import Conversation, Message, encode_pieces, render, stop_token_ids

    hettie = json.loads((ROOT / "worlds" / "harrowmere" / "characters.json").read_text("utf-8"))[0]
    system = f"You are {hettie['name']}, {hettie['role']}. {hettie['description']} {hettie['scenario']}"
    turns = [Message(role="assistant" if n % 2 else "user", content=line) for n, line in enumerate(lines)]
    pieces = render(Conversation(messages=(Message(role="system", content=system), *turns)))
    request = GenerationRequest(
        prompt_ids=tuple(encode_pieces(pieces, loaded.tokenizer)[0]),
        max_tokens=NUM_TOKENS,
        sampling=SamplingParams(temperature=0.0),
        stop_token_ids=stop_token_ids(loaded.tokenizer, loaded.config.eos_token_id) if is_stopping else frozenset(),
    )
    asked = time.perf_counter()
    generation = engine.submit(request)
    chunks, arrivals = [], []
    for chunk in generation:
        chunks.append(chunk.text)
        arrivals.append(time.perf_counter())
    usage = generation.usage
    return Answer(
        text="".join(chunks),
        wait_s=arrivals[0] - asked,
        num_read=usage.prompt_tokens - usage.cached_tokens,
        tokens_per_s=(usage.completion_tokens - 1) / (arrivals[-1] - arrivals[0] or 1),
    )


def hardware() -> str:
    """Processor, cores and system."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores, {platform.platform()}"


def commit() -> str:
    """The commit measured, marked when files differ from it."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    return run.stdout.strip() or "unknown"


def main() -> None:
    """Repeat, take medians, print them with what they were measured on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="a GGUF file or Hugging Face folder; default: the embedded model")
    parser.add_argument("--repeat", type=int, default=5, help="processes started (default: 5)")
    parser.add_argument("--once", action="store_true", help="measure in this process and print JSON")
    options = parser.parse_args()
    if options.once:
        print(json.dumps(measure(options.model)))
        return
    command = [sys.executable, "-m", "benchmarks.first_token", "--once"]
    command += ["--model", str(options.model)] if options.model else []
    runs = [
        subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False) for _ in range(options.repeat)
    ]
    failed = [run for run in runs if run.returncode]
    if failed:
        sys.exit(failed[0].stderr.strip().splitlines()[-1])
    results = [json.loads(run.stdout) for run in runs]
    print(f"command   {Path(sys.executable).name} {' '.join(sys.orig_argv[1:])}")
    print(f"commit    {commit()}")
    print(f"hardware  {hardware()}")
    print(f"date      {datetime.date.today()}, Python {platform.python_version()}")
    print(f"medians of {len(results)} processes (least to most)")
    for name in results[0]:
        values = sorted(result[name] for result in results)
        print(f"{name:30} {statistics.median(values):9.4g}   ({values[0]:.4g} to {values[-1]:.4g})")


if __name__ == "__main__":
    main()
