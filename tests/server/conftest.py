"""A served model that says what the test wants, and clients for it."""

import asyncio
import json
import re
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest
import uvicorn

from understudy.engine import Engine, MemoryFigures, Step
from understudy.kernels.native import native_module
from understudy.model.native_backend import CpuBackend
from understudy.model.transformer import ReferenceBackend
from understudy.npc.model import Model
from understudy.prompt import Renderer
from understudy.server import ServedModel, ServerOptions, create_app
from understudy.server.listen import open_socket, server_config
from understudy.server.wire import Wire
from understudy.testing import ListCache, tiny_model

EOS = 3


class Stage:
    """A backend with a script, and the application around it.

    Attributes:
        script: what every answer says; markers of tool calls are written as their text.
        script_after_results: what an answer to a tool's result says; None for the same.
        prompts: what the model was shown.
        gate: closed, the model stops before its next step.
        failure: raised by the model's next step.
    """

    name = "scripted"

    def __init__(self, **config: int) -> None:
        files = tiny_model(**config)
        self.config = files.config
        self.tokenizer = files.tokenizer
        self.script = "Hello."
        self.script_after_results: str | None = None
        self.endless = False
        self.failure: Exception | None = None
        self.fails_after = 0
        self.num_steps = 0
        self.gate = threading.Event()
        self.gate.set()
        self._caches: list[ListCache] = []
        renderer = Renderer(files.tokenizer)
        self.engine = Engine(self, self.tokenizer)
        model = Model(files=files, engine=self.engine, renderer=renderer)
        self.served = ServedModel.wrap(model, name="harrow")
        self.app = create_app(self.served, options=ServerOptions(stream_interval_ms=0))  # each token is an event

    @property
    def prompts(self) -> list[str]:
        """What the model read and said, with markers."""
        texts = {i: t for t, i in self.tokenizer.specials.items()}
        return [
            b"".join(texts[i].encode() if i in texts else self.tokenizer.token_bytes(i) for i in c.token_ids).decode()
            for c in self._caches
        ]

    block_tokens = 1
    draft_tokens = 0

    def num_free_tokens(self) -> int | None:
        return None

    def new_cache(self) -> ListCache:
        lab = self

        class Watched(ListCache):
            def __init__(self) -> None:
                super().__init__()
                lab._caches.append(self)

        return Watched()

    def memory(self) -> MemoryFigures:
        return MemoryFigures(weight_bytes=0, mapped_bytes=0, cache_bytes_per_token=1 << 40)

    def forward(self, batch: Sequence[Step]) -> list[npt.NDArray[np.float32]]:
        assert self.gate.wait(20)
        self.num_steps += 1
        if self.failure is not None and self.num_steps > self.fails_after:
            raise self.failure
        if self.endless:
            time.sleep(0.003)  # so that the context is not full before a slow machine's reader wakes
        results = []
        for step in batch:
            assert isinstance(step.cache, ListCache)
            step.cache.token_ids += step.token_ids
            logits = np.full((step.num_logits, self.config.vocab_size), -30, np.float32)
            if step.num_logits:
                logits[-1, self._next(step.cache.token_ids)] = 30
            results.append(logits)
        return results

    def _next(self, ids: list[int]) -> int:
        header = [self.tokenizer.special_id("<extra_id_1>"), *self.tokenizer.encode("Assistant\n")]
        start = next(n for n in range(len(ids) - len(header), -1, -1) if ids[n : n + len(header)] == header)
        number = len(ids) - start - len(header)
        has_results = self.script_after_results is not None and self._has_results(ids[:start])
        script = self._script_ids(self.script_after_results if has_results else None)
        return script[number % len(script)] if self.endless else [*script, EOS][min(number, len(script))]

    def _has_results(self, ids: list[int]) -> bool:
        header = [self.tokenizer.special_id("<extra_id_1>"), *self.tokenizer.encode("Tool\n")]
        return any(ids[n : n + len(header)] == header for n in range(len(ids)))

    def _script_ids(self, script: str | None) -> list[int]:
        ids: list[int] = []
        rest = self.script if script is None else script
        while rest:
            marker = next((m for m in ("<toolcall>", "</toolcall>") if rest.startswith(m)), None)
            ids += [self.tokenizer.specials[marker]] if marker else self.tokenizer.encode(rest[0])
            rest = rest[len(marker or rest[0]) :]
        return ids


@contextmanager
def listening(app: Any, wire: type[Wire] = Wire) -> Iterator[str]:
    """A real server on a free port of this machine."""
    with open_socket("127.0.0.1", 0, has_key=False) as listener:
        server = uvicorn.Server(server_config(app, wire=wire))
        server.config.timeout_graceful_shutdown = 1
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)


Until = Callable[[Callable[[], bool]], Awaitable[None]]


@pytest.fixture
def until() -> Until:
    """Wait for what another thread is about to make true."""

    async def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, "it never came true"
            await asyncio.sleep(0.005)

    return wait


PeakBelow = Callable[[int], AbstractContextManager[None]]


@contextmanager
def _peak_below(mebibytes: int) -> Iterator[None]:
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        yield
        return
    reset.write_text("5")
    before = _peak_kib()
    yield
    assert _peak_kib() - before < mebibytes << 10


def _peak_kib() -> int:
    return int(re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[0])


@pytest.fixture
def peak_below() -> PeakBelow:
    """This process, the server in it, takes no more MiB meanwhile; looked at where Linux tells it."""
    return _peak_below


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.gate.set()
    stage.engine.close()


@pytest.fixture(scope="session")
def tiny_served() -> Iterator[ServedModel]:
    """A model that says random things, whatever it may say."""
    files = tiny_model()
    kind = CpuBackend if native_module() is not None else ReferenceBackend
    backend = kind(files.config, files.weights)
    with Engine(backend, files.tokenizer) as engine:
        model = Model(files=files, engine=engine, renderer=Renderer(files.tokenizer))
        yield ServedModel.wrap(model, name="harrow")


@pytest.fixture
async def tiny(tiny_served: ServedModel) -> AsyncIterator[httpx.AsyncClient]:
    """Its client, without a network; streams arrive as a whole."""
    transport = httpx.ASGITransport(create_app(tiny_served, options=ServerOptions(stream_interval_ms=0)))
    async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=120) as client:
        yield client


@pytest.fixture
async def client(stage: Stage) -> AsyncIterator[httpx.AsyncClient]:
    """A client without a network; streams arrive as a whole."""
    transport = httpx.ASGITransport(stage.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=30) as client:
        yield client


@pytest.fixture
def url(stage: Stage) -> Iterator[str]:
    """Address of a real server."""
    with listening(stage.app) as address:
        yield address


def body(**fields: Any) -> dict[str, Any]:
    """A request."""
    return {"model": "harrow", "messages": [{"role": "user", "content": "Hi"}], **fields}


def events(text: str) -> list[dict[str, Any]]:
    """The JSON of a whole stream, checked for its form."""
    lines = text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    assert all(line.startswith("data: ") for line in lines[:-1])
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


@pytest.fixture(name="body")
def _body() -> Callable[..., dict[str, Any]]:
    return body


@pytest.fixture(name="events")
def _events() -> Callable[[str], list[dict[str, Any]]]:
    return events


@pytest.fixture(name="new_stage")
def _new_stage() -> Iterator[Callable[..., Stage]]:
    """Stages of another shape."""
    stages: list[Stage] = []

    def make(**config: int) -> Stage:
        stages.append(Stage(**config))
        return stages[-1]

    yield make
    for stage in stages:
        stage.engine.close()


@pytest.fixture(scope="session", name="listening")
def _listening() -> Callable[[Any], Any]:
    return listening
