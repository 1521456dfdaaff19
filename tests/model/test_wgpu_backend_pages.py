"""Keys and values leave a GPU and come back."""

import numpy as np
import pytest

from understudy.engine import Engine, GenerationRequest, SamplingParams
from understudy.engine.backend import Step
from understudy.engine.paging import PagedBackend
from understudy.errors import EngineError
from understudy.kernels.gpu_adapters import Adapter
from understudy.kernels.native import native_module
from understudy.model.checkpoint import LoadedModel
from understudy.model.gpu_limits import GpuLimits
from understudy.model.wgpu_backend import WgpuBackend
from understudy.model.wgpu_cache import GpuCache
from understudy.testing import tiny_model

pytestmark = pytest.mark.gpu

IDS = np.random.default_rng(1).integers(0, 268, 90).tolist()


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return tiny_model(hidden_size=52, intermediate_size=37)


def opened(model: LoadedModel, adapter: Adapter, kv_bits: int, **options: GpuLimits) -> WgpuBackend:
    return WgpuBackend(model.config, model.weights, adapter, kv_bits=kv_bits, cache_tokens=512, **options)


def filled(backend: WgpuBackend, pages: np.ndarray, start: int, length: int) -> GpuCache:
    """A cache whose end comes from pages."""
    cache = backend.new_cache()
    if start:
        backend.forward([Step(cache, IDS[:start])])
    cache.reserve(length)
    backend.write_pages(cache, start, pages)
    cache.settle(IDS[start:length])
    return cache


def check(there: WgpuBackend, here: WgpuBackend, start: int, length: int) -> None:
    cache, other = there.new_cache(), there.new_cache()
    there.forward([Step(other, IDS[::-1])])  # leaves its values in blocks that are used again
    del other
    there.forward([Step(cache, IDS)])
    expected = there.forward([Step(cache.fork(length), IDS[length:], 90 - length)])[0]
    pages = there.read_pages(cache, start, length)
    assert pages.shape == (-(-(length - start) // 32), there.page_bytes)
    assert there.kv_format == here.kv_format
    back = filled(here, pages, start, length)
    np.testing.assert_array_equal(here.read_pages(back, start, length), pages)
    np.testing.assert_array_equal(here.forward([Step(back, IDS[length:], 90 - length)])[0], expected)


@pytest.mark.parametrize("kv_bits", [8, pytest.param(16, marks=pytest.mark.slow)])
def test_pages_that_left_come_back_with_the_same_bits(model: LoadedModel, adapter: Adapter, kv_bits: int) -> None:
    there, here = (opened(model, adapter, kv_bits) for _ in range(2))
    assert isinstance(there, PagedBackend)
    assert f"{kv_bits} bits" in there.kv_format
    for start, length in ((0, 70), (64, 65)):
        check(there, here, start, length)
    there.close()
    here.close()


@pytest.mark.slow
@pytest.mark.skipif(native_module() is None, reason="the native kernels are not built")
def test_pages_of_a_model_that_the_cpu_helps_with(model: LoadedModel, adapter: Adapter) -> None:
    whole = opened(model, adapter, 16)
    budget = whole.plan.total_bytes - whole.plan.cache_bytes * 3 // 4 - whole.plan.head_bytes
    both = [opened(model, adapter, 16, limits=GpuLimits(memory_bytes=budget)) for _ in range(2)]
    assert both[0].plan.num_gpu_layers == 1
    assert both[0].kv_format != whole.kv_format
    check(both[0], both[1], 32, 64)
    for backend in (whole, *both):
        backend.close()


@pytest.mark.parametrize("kv_bits", [8, pytest.param(16, marks=pytest.mark.slow)])
def test_a_page_shows_nothing_behind_its_last_token(model: LoadedModel, adapter: Adapter, kv_bits: int) -> None:
    backend = opened(model, adapter, kv_bits)
    caches = [backend.new_cache(), backend.new_cache()]
    for cache, rest in zip(caches, (IDS[40:60], IDS[60:80]), strict=True):
        backend.forward([Step(cache, [*IDS[:40], *rest])])
    first, second = (backend.read_pages(cache, 0, 40) for cache in caches)
    np.testing.assert_array_equal(first, second)
    assert (first[0] != 0).mean() > 0.8
    assert (first[1] != 0).mean() == pytest.approx(8 / 32, abs=0.06)
    backend.close()


def test_a_device_lost_in_between_costs_time_alone(model: LoadedModel, adapter: Adapter) -> None:
    backend = opened(model, adapter, 16)
    cache = backend.new_cache()
    backend.forward([Step(cache, IDS[:70])])
    expected = backend.forward([Step(cache.fork(70), IDS[70:], 20)])[0]
    pages = backend.read_pages(cache, 32, 70)
    backend._device._device.destroy()  # as a driver's reset does
    np.testing.assert_array_equal(backend.read_pages(cache, 32, 70), pages)
    other = backend.new_cache()
    backend.forward([Step(other, IDS[:32])])
    other.reserve(70)
    write, written = backend._model.write_block, []

    def lose(block: int, page: np.ndarray) -> None:
        if len(written) == 1:
            backend._device._device.destroy()
        written.append(block)
        write(block, page)

    backend._model.write_block = lose  # type: ignore[method-assign]
    backend.write_pages(other, 32, pages)
    other.settle(IDS[32:70])
    np.testing.assert_array_equal(backend.forward([Step(other, IDS[70:], 20)])[0], expected)
    backend.close()


def test_an_engine_reads_only_new_tokens_after_a_restart(model: LoadedModel, adapter: Adapter) -> None:
    request = GenerationRequest(
        prompt_ids=tuple(IDS), sampling=SamplingParams(temperature=0), max_tokens=6, stop_token_ids=frozenset()
    )
    with Engine(opened(model, adapter, 16), model.tokenizer) as engine:
        generation = engine.submit(request)
        said = [t for chunk in generation for t in chunk.token_ids]
        kept = engine.export_prefix(IDS[:80])
    assert kept is not None
    assert len(kept.token_ids) == 80
    with Engine(opened(model, adapter, 16), model.tokenizer) as engine:
        assert engine.import_prefix(kept) == 80
        generation = engine.submit(request)
        assert [t for chunk in generation for t in chunk.token_ids] == said
        assert generation.usage.cached_tokens == 80
    with (
        Engine(opened(model, adapter, 8), model.tokenizer) as engine,
        pytest.raises(EngineError, match="does not read"),
    ):
        engine.import_prefix(kept)
