"""A backend whose next token is a rule of the tests' own, and the tiny random model."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pytest

from understudy.engine import Engine, EngineOptions, GenerationRequest, MemoryFigures, SamplingParams, Step
from understudy.model.config import NemotronConfig
from understudy.model.transformer import ReferenceBackend
from understudy.testing import ListCache, byte_tokenizer, tiny_config, tiny_model

Rule = Callable[[list[int]], int]
EOS = 3


class ScriptedBackend:
    """Gives all weight to the token that a rule names; can be held up and broken."""

    name = "scripted"

    def __init__(self, rule: Rule, config: NemotronConfig | None = None) -> None:
        self.rule = rule
        self.config = config or tiny_config()
        self.steps: list[list[int]] = []
        self.in_use: set[int] = set()
        self.gate = threading.Event()
        self.gate.set()
        self.failure: Exception | None = None
        self.num_free: int | None = None

    block_tokens = 1
    draft_tokens = 0

    def num_free_tokens(self) -> int | None:
        return self.num_free

    def new_cache(self) -> ListCache:
        return ListCache()

    def forward(self, batch: Sequence[Step]) -> list[npt.NDArray[np.float32]]:
        self.steps.append([len(step.token_ids) for step in batch])
        assert self.gate.wait(20)
        caches = [step.cache for step in batch]
        assert len({id(c) for c in caches}) == len(caches), "two sequences share a cache"
        results = []
        for step in batch:
            assert isinstance(step.cache, ListCache)
            step.cache.token_ids += step.token_ids
            if self.failure is not None:
                raise self.failure
            logits = np.full((step.num_logits, self.config.vocab_size), -20, np.float32)
            for row in range(step.num_logits):
                seen = step.cache.token_ids[: step.cache.length - step.num_logits + 1 + row]
                token = self.rule(seen)
                logits[row] = np.nan if token < 0 else logits[row]
                logits[row, max(token, 0)] = np.nan if token < 0 else 20
            results.append(logits)
        return results

    def memory(self) -> MemoryFigures:
        return MemoryFigures(weight_bytes=0, mapped_bytes=0, cache_bytes_per_token=1024)


class Lab:
    """Engines that are closed at the end of the test."""

    def __init__(self) -> None:
        self.tokenizer = byte_tokenizer()
        self.engines: list[Engine] = []
        self.backends: list[ScriptedBackend] = []

    def open(self, backend: object, **options: int) -> Engine:
        engine = Engine(backend, self.tokenizer, options=EngineOptions(**options))  # type: ignore[arg-type]
        self.engines.append(engine)
        return engine

    def scripted(self, rule: Rule, config: NemotronConfig | None = None, **options: int) -> Engine:
        """An engine whose `backend` is scripted."""
        self.backends.append(ScriptedBackend(rule, config))
        return self.open(self.backends[-1], **options)

    def saying(self, text: str | bytes, **options: int) -> Engine:
        """An engine that answers every prompt of one token with these words, then the end token, over and over."""
        data = text.encode() if isinstance(text, str) else text
        script = [*(self.byte(b) for b in data), EOS]
        return self.scripted(lambda ids: script[(len(ids) - 1) % len(script)], **options)

    def real(self, **options: int) -> Engine:
        """An engine with the tiny random model."""
        model = tiny_model()
        return self.open(ReferenceBackend(model.config, model.weights), **options)

    def byte(self, value: int) -> int:
        return self.tokenizer.encode(" ")[0] - 0x20 + value

    def ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text))

    def request(self, prompt: str = "x", **fields: object) -> GenerationRequest:
        """Greedy unless told otherwise; stops at the end token."""
        defaults: dict[str, object] = {
            "prompt_ids": self.ids(prompt),
            "sampling": SamplingParams(temperature=0),
            "stop_token_ids": frozenset({EOS}),
        }
        return GenerationRequest(**{**defaults, **fields})  # type: ignore[arg-type]


def wait_until(condition: Callable[[], bool], timeout_s: float = 20) -> None:
    """Poll a condition that another thread is about to make true."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.001)


@pytest.fixture(name="wait_until")
def _wait_until() -> Callable[..., None]:
    return wait_until


@pytest.fixture
def lab() -> Iterator[Lab]:
    lab = Lab()
    yield lab
    for backend in lab.backends:
        backend.gate.set()
    for engine in lab.engines:
        engine.close()
