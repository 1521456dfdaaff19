"""Tokens a second of the runtime, in a process of its own."""

import os
import statistics

from understudy.evaluation.engines import EngineProcess
from understudy.evaluation.subject import Subject
from understudy.evaluation.task import Figure, Outcome, Progress
from understudy.model.native_backend import why_not_native

__all__ = ["Speed"]

_PREFILL_TOKENS = 512
_DEPTH = 128
_DECODE_TOKENS = 32
_REPEATS = 3
_MIN_VOCAB = 268  # the measuring process draws ids below this


class Speed:
    """Prefill and decode of the compiled backend."""

    name = "speed"
    method = (
        f"The compiled backend in a process of its own, all cores: a prompt of {_PREFILL_TOKENS} random tokens, "
        f"and decoding {_DECODE_TOKENS} tokens after {_DEPTH}; medians of {_REPEATS} runs. The machine's load "
        "average before the run is among the settings: other work beside it slows it down."
    )
    version = 1
    needs = ()
    needs_parent = False

    def lacks(self, subject: Subject) -> str | None:
        """See `Task`."""
        config = subject.files.config
        if reason := why_not_native(config):
            return reason
        if config.vocab_size < _MIN_VOCAB or config.max_position_embeddings < 2 * _PREFILL_TOKENS:
            return f"it needs a vocabulary of {_MIN_VOCAB} tokens and a context of {2 * _PREFILL_TOKENS}"
        return None

    def run(self, subject: Subject, progress: Progress) -> Outcome:
        """See `Task`."""
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        threads = _num_cores()
        prefill, decode = [], []
        with EngineProcess("understudy", subject.path, threads=threads) as engine:
            for number in range(_REPEATS):
                prefill.append(_PREFILL_TOKENS / engine.ask(prefill=_PREFILL_TOKENS)["seconds"])
                engine.ask(prefill=_DEPTH)
                decode.append(1 / engine.ask(decode=_DECODE_TOKENS)["seconds_a_token"])
                progress(number + 1, _REPEATS)
            peak = float(engine.ask()["peak_bytes"])
            version = engine.version
        rates = (
            ("prefill", f"prefill of {_PREFILL_TOKENS} tokens", prefill),
            ("decode", f"decode at {_DEPTH}", decode),
        )
        figures = [
            Figure(
                name=f"speed.{name}", label=label, value=statistics.median(values), unit="tokens/s", better="higher",
                count=_REPEATS,
            )
            for name, label, values in rates
        ]  # fmt: skip
        if peak:  # Linux tells
            figures.append(
                Figure(name="speed.peak", label="peak memory while measuring", value=peak, unit="bytes", better="lower")
            )
        settings = {"threads": threads, "load_average": load, "engine": version}
        return Outcome(figures=tuple(figures), settings=settings)


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
