"""A GPU that fails while characters speak: nobody says a wrong token, and the process lives."""

import functools
import random
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from understudy.engine import Engine, GenerationRequest, SamplingParams
from understudy.engine.backend import Step
from understudy.errors import UnderstudyError
from understudy.kernels.gpu_adapters import Adapter
from understudy.kernels.gpu_device import Copy
from understudy.model.checkpoint import LoadedModel
from understudy.model.wgpu_backend import WgpuBackend
from understudy.testing import tiny_model

pytestmark = pytest.mark.gpu

IDS = np.random.default_rng(1).integers(0, 268, 90).tolist()


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return tiny_model(hidden_size=52, intermediate_size=37)


@pytest.fixture
def backend(model: LoadedModel, adapter: Adapter) -> Iterator[WgpuBackend]:
    backend = WgpuBackend(model.config, model.weights, adapter, kv_bits=16)
    yield backend
    backend.close()


def request(number: int, max_tokens: int = 8) -> GenerationRequest:
    return GenerationRequest(
        prompt_ids=tuple(IDS[: 5 + 4 * number]),
        sampling=SamplingParams(temperature=0.8, seed=number),
        max_tokens=max_tokens,
        stop_token_ids=frozenset(),
    )


def tokens(engine: Engine, number: int) -> list[int]:
    return [token for chunk in engine.submit(request(number)) for token in chunk.token_ids]


def before_the_nth(backend: WgpuBackend, number: int, trouble: Callable[[], None]) -> None:
    """Let trouble come before a certain step from now on."""
    run, steps = backend.forward, []

    def troubled(*arguments):
        steps.append(None)
        if len(steps) == number:
            trouble()
        return run(*arguments)

    backend.forward = troubled  # type: ignore[method-assign]


def lose(backend: WgpuBackend) -> None:
    backend._device._device.destroy()  # as a driver's reset does


def test_a_device_lost_in_mid_generation_is_not_noticed(
    backend: WgpuBackend, model: LoadedModel, caplog: pytest.LogCaptureFixture
) -> None:
    with Engine(backend, model.tokenizer) as engine:
        alone = [tokens(engine, number) for number in range(4)]
        for number in (3, 6):
            before_the_nth(backend, number, functools.partial(lose, backend))
        together = [engine.submit(request(number)) for number in range(4)]
        assert [[t for chunk in g for t in chunk.token_ids] for g in together] == alone
    assert caplog.text.count("opened again") == 2


def test_a_command_refused_in_mid_generation_fails_those_who_speak_and_nobody_else(
    backend: WgpuBackend, model: LoadedModel
) -> None:
    wrong = Copy(backend._model._buffers["words"], 0, backend._model._buffers["work"], 0, 16)
    object.__setattr__(wrong, "num_bytes", 1 << 30)
    with Engine(backend, model.tokenizer) as engine:
        alone = tokens(engine, 1)
        before_the_nth(backend, 4, lambda: backend._device.copy(wrong))
        with pytest.raises(UnderstudyError, match="refused"):
            tokens(engine, 1)
        assert tokens(engine, 1) == alone


def test_sixteen_sessions_come_and_go_while_the_device_is_lost(backend: WgpuBackend, model: LoadedModel) -> None:
    draw = random.Random(3)
    with Engine(backend, model.tokenizer) as engine:
        first = [engine.submit(request(number)) for number in range(16)]
        alone = [[token for chunk in generation for token in chunk.token_ids] for generation in first]
        assert tokens(engine, 9) == alone[9]
        before_the_nth(backend, 5, functools.partial(lose, backend))
        found: dict[int, list[int]] = {}

        def talk(number: int, most: int) -> None:
            generation, said = engine.submit(request(number)), list[int]()
            for chunk in generation:
                said += chunk.token_ids
                if len(said) >= most:
                    generation.cancel()
            found[number] = said

        lengths = [draw.choice((2, 5, 99)) for _ in range(16)]
        threads = [threading.Thread(target=talk, args=pair) for pair in enumerate(lengths)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert sorted(found) == list(range(16))
        for number, said in found.items():
            assert said == alone[number][: len(said)]
            assert len(said) >= min(lengths[number], 8)


@pytest.mark.slow
def test_pages_come_and_go_while_others_speak_and_devices_are_lost(backend: WgpuBackend) -> None:
    base, wrong, rounds = backend.new_cache(), [], [0, 0]
    backend.forward([Step(base, IDS)])
    expected, end = backend.read_pages(base.fork(80), 0, 80), time.monotonic() + 5

    def copy_pages() -> None:
        while time.monotonic() < end:
            pages, other = backend.read_pages(base.fork(80), 0, 80), backend.new_cache()
            other.reserve(80)
            backend.write_pages(other, 0, pages)
            other.settle(IDS[:80])
            again = backend.read_pages(other, 0, 80)
            wrong.extend(found for found in (pages, again) if not np.array_equal(found, expected))
            rounds[0] += 1

    def lose_devices() -> None:
        while time.monotonic() < end - 2:
            time.sleep(0.7)
            with backend._lock:
                lose(backend)
            rounds[1] += 1

    threads = [threading.Thread(target=work) for work in (copy_pages, lose_devices)]
    for thread in threads:
        thread.start()
    said = set()
    while time.monotonic() < end:
        cache, ids = backend.new_cache(), [1]
        for _ in range(10):
            ids = [*ids, int(backend.forward([Step(cache, ids[-1:])])[0][-1].argmax())]
        said.add(tuple(ids))
    for thread in threads:
        thread.join(60)
    assert wrong == []
    assert len(said) == 1
    assert min(rounds) >= 2
