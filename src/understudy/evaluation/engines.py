"""Engines under measurement, each in a process of its own that does one thing when told and otherwise sleeps."""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata, util
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from understudy.errors import EngineError
from understudy.evaluation.peers_onnxruntime import OnnxRuntime
from understudy.evaluation.peers_openvino import OpenVino

__all__ = ["ENGINES", "EngineProcess", "MeasuredEngine", "installed_engines", "serve_engine"]

_FIRST_ID, _NUM_IDS = 12, 256  # of a synthetic model: bytes
_LIMIT_BYTES = 1 << 30
_PREFILL_TOKENS = 256  # as the engine's default


class MeasuredEngine(Protocol):
    """What is asked of an engine: one sequence at a time, or several.

    One that needs the model in another form has a class method `prepare(model)`, which is no part of loading.
    """

    version: str

    def prefill(self, token_ids: list[int]) -> None:
        """Begin a sequence with these tokens; logits of the last one are there afterwards."""
        ...

    def decode(self, token_id: int) -> None:
        """Add a token to the sequence; its logits are there afterwards."""
        ...

    def extend(self, length: int, token_ids: list[int]) -> None:
        """Go on from the sequence's first `length` tokens with these; logits of the last one are there afterwards."""
        ...


class _Understudy:
    """The compiled backend of this package."""

    def __init__(self, model: Path, threads: int) -> None:
        from understudy import __version__
        from understudy.model.checkpoint import load_model
        from understudy.model.native_backend import CpuBackend

        files = load_model(model)
        self.backend = CpuBackend(files.config, files.weights, num_threads=threads)
        self.version = f"{__version__}, {self.backend.name}, {self.backend.kv_bits}-bit KV"
        self._caches = [self.backend.new_cache()]

    def prefill(self, token_ids: list[int]) -> None:
        self._caches = [self.backend.new_cache()]
        self._read(token_ids)

    def _read(self, token_ids: list[int]) -> None:
        from understudy.engine.backend import Step

        for start in range(0, len(token_ids), _PREFILL_TOKENS):
            part = token_ids[start : start + _PREFILL_TOKENS]
            is_last = start + _PREFILL_TOKENS >= len(token_ids)
            self.backend.forward([Step(self._caches[0], part, int(is_last))])

    def decode(self, token_id: int) -> None:
        from understudy.engine.backend import Step

        self.backend.forward([Step(cache, [token_id]) for cache in self._caches])

    def extend(self, length: int, token_ids: list[int]) -> None:
        self._caches = [self._caches[0].fork(length)]
        self._read(token_ids)

    def floors(self, threads: int) -> dict[str, float]:
        """The machine's limits, and what a token costs at least."""
        from understudy.kernels.native import native_module

        native: Any = native_module()
        bandwidth, int8 = native.measure_limits(threads, "", _LIMIT_BYTES)
        config, memory = self.backend.config, self.backend.memory()
        per_layer = config.hidden_size * (
            2 * config.num_attention_heads * config.head_dim
            + 2 * config.num_key_value_heads * config.head_dim
            + 2 * config.intermediate_size
        )
        return {
            "bytes_per_s": bandwidth,
            "int8_ops_per_s": int8,
            "weight_bytes": memory.weight_bytes,
            "cache_bytes_per_token": memory.cache_bytes_per_token,
            "ops_per_token": 2 * config.num_hidden_layers * per_layer,
            "attention_ops_per_pair": 4 * config.num_hidden_layers * config.num_attention_heads * config.head_dim,
        }

    def branch(self, count: int) -> None:
        """Go on with so many copies of the sequence at once."""
        first = self._caches[0]
        self._caches = [first.fork(first.length) for _ in range(count)]


class _LlamaCpp:
    """llama.cpp by way of llama-cpp-python."""

    def __init__(self, model: Path, threads: int, *, flash_attention: bool) -> None:
        import llama_cpp

        self._llm: Any = llama_cpp.Llama(
            str(model), n_ctx=4096, n_batch=512, n_ubatch=512, n_threads=threads, n_threads_batch=threads,
            flash_attn=flash_attention, verbose=False,
        )  # fmt: skip
        self.version = f"llama-cpp-python {metadata.version('llama-cpp-python')}"

    def prefill(self, token_ids: list[int]) -> None:
        self._llm.reset()
        self._llm.eval(token_ids)

    def decode(self, token_id: int) -> None:
        self._llm.eval([token_id])

    def extend(self, length: int, token_ids: list[int]) -> None:
        self._llm.n_tokens = length
        self._llm.eval(token_ids)


ENGINES: dict[str, Callable[[Path, int], MeasuredEngine]] = {
    "understudy": _Understudy,
    "llama.cpp": lambda model, threads: _LlamaCpp(model, threads, flash_attention=False),
    "llama.cpp, flash attention": lambda model, threads: _LlamaCpp(model, threads, flash_attention=True),
    "onnxruntime": OnnxRuntime,
    "openvino": OpenVino,
}
_PACKAGES: dict[str, tuple[str, ...]] = {
    "llama.cpp": ("llama_cpp",),
    "llama.cpp, flash attention": ("llama_cpp",),
    "onnxruntime": ("onnx", "onnxruntime"),
    "openvino": ("openvino",),
}


def installed_engines() -> list[str]:
    """Names of the engines that this installation can measure."""
    return [name for name in ENGINES if all(util.find_spec(package) for package in _PACKAGES.get(name, ()))]


def serve_engine() -> None:
    """Be the process of an engine: on stdin a line that says which, then a JSON command a line; answers on stdout."""
    asked = json.loads(sys.stdin.readline())
    kind, model = ENGINES[asked["engine"]], Path(asked["model"])
    if prepare := getattr(kind, "prepare", None):
        prepare(model)
    began = time.perf_counter()
    engine: Any = kind(model, asked["threads"])
    engine.prefill([_FIRST_ID])
    can = [task for task in ("prefill", "decode", "extend", "branch", "floors") if hasattr(engine, task)]
    answer: dict[str, Any] = {"load_s": time.perf_counter() - began, "version": engine.version, "can": can}
    _say(answer)
    rng = np.random.default_rng(0)
    for line in sys.stdin:
        command = json.loads(line)
        answer = {}
        if num_ids := command.get("prefill", command.get("context")):
            ids = rng.integers(_FIRST_ID, _FIRST_ID + _NUM_IDS, num_ids).tolist()
            began = time.perf_counter()
            engine.prefill(ids)
            answer["seconds"] = time.perf_counter() - began
        if "extend" in command:
            ids = rng.integers(_FIRST_ID, _FIRST_ID + _NUM_IDS, command["extend"]).tolist()
            began = time.perf_counter()
            engine.extend(command["after"], ids)
            answer["seconds"] = time.perf_counter() - began
        if "floors" in command:
            answer["floors"] = engine.floors(asked["threads"])
        if "branch" in command:
            engine.branch(command["branch"])
        if "decode" in command:
            times = []
            for _ in range(command["decode"]):
                began = time.perf_counter()
                engine.decode(int(rng.integers(_FIRST_ID, _FIRST_ID + _NUM_IDS)))
                times.append(time.perf_counter() - began)
            answer["seconds_a_token"] = float(np.median(times))
        answer["peak_bytes"], answer["mapped_bytes"] = _memory()
        _say(answer)


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _memory() -> tuple[int, int]:
    """Peak of resident memory, and how much of what is resident now belongs to mapped files, in bytes; Linux."""
    try:
        rows = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0, 0
    found = {row.split(":")[0]: int(row.split()[1]) * 1024 for row in rows if row.startswith(("VmHWM", "RssFile"))}
    return found.get("VmHWM", 0), found.get("RssFile", 0)


class EngineProcess:
    """An engine in another process; close it, or use it in a `with`.

    Attributes:
        load_s: from the start of loading to the first forward pass.
        version: what the engine says it is.
        can: the tasks it can be asked for.
    """

    def __init__(self, name: str, model: Path, *, threads: int) -> None:
        """Start the process and wait until the model is loaded.

        Raises:
            EngineError: the engine does not start.
        """
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from understudy.evaluation.engines import serve_engine; serve_engine()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        ready = self._send({"engine": name, "model": str(model), "threads": threads})
        self.load_s: float | None = ready["load_s"]
        self.version: str = ready["version"]
        self.can: frozenset[str] = frozenset(ready["can"])

    def ask(self, **command: int) -> dict[str, Any]:
        """Send a command and wait for its answer.

        Commands are `prefill` (tokens; seconds come back), `context` (the same, to be decoded from), `decode` (tokens;
        seconds of one), `extend` (tokens) with `after` (how many stay), `branch` (sequences), `floors`, or none. Every
        answer has the peak of memory.

        Raises:
            EngineError: the process died.
        """
        return self._send(command)

    def _send(self, command: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        with contextlib.suppress(BrokenPipeError):  # it died; the missing answer says so
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            self.close()
            raise EngineError(f"{self.name} ended before it answered (exit code {self._process.wait()}).")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin
        assert self._process.stdout
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
