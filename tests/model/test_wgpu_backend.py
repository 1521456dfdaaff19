"""The GPU backend: equal to NumPy, to itself however the work is cut, and through all that goes wrong."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from understudy.engine.backend import Backend, Step
from understudy.errors import EngineError, GpuError, GpuMemoryError
from understudy.kernels import gpu_device
from understudy.kernels.gpu_adapters import Adapter
from understudy.kernels.gpu_players import CffiPlayer, NativePlayer
from understudy.kernels.native import native_module
from understudy.model.checkpoint import LoadedModel, load_model
from understudy.model.embedded import embedded_model_path
from understudy.model.gpu_limits import GpuLimits
from understudy.model.native_backend import CpuBackend
from understudy.model.published import PUBLISHED_SHAPES
from understudy.model.synthetic import write_synthetic
from understudy.model.transformer import ReferenceBackend
from understudy.model.wgpu_backend import WgpuBackend
from understudy.prompt import MARKERS
from understudy.testing import tiny_model
from understudy.tokenizer.byte_level import byte_level_definition

pytestmark = pytest.mark.gpu

IDS = np.random.default_rng(1).integers(0, 268, 90).tolist()


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return tiny_model(hidden_size=52, intermediate_size=37)


@pytest.fixture(scope="module")
def backend(model: LoadedModel, adapter: Adapter) -> Iterator[WgpuBackend]:
    backend = WgpuBackend(model.config, model.weights, adapter, kv_bits=16)
    yield backend
    backend.close()


def logits(backend: Backend, cuts: list[int]) -> np.ndarray:
    cache, at, parts = backend.new_cache(), 0, []
    for cut in cuts:
        parts.append(backend.forward([Step(cache, IDS[at : at + cut], cut)])[0])
        at += cut
    return np.concatenate(parts)


def test_equal_to_numpy_and_cached_to_full(backend: WgpuBackend, model: LoadedModel) -> None:
    whole = logits(backend, [90])
    np.testing.assert_allclose(whole, logits(ReferenceBackend(model.config, model.weights), [90]), atol=0.01)
    for cuts in ([1] * 20 + [70], [31, 2, 57]):
        np.testing.assert_array_equal(logits(backend, cuts), whole)


def test_seven_dispatches_a_layer_and_no_byte_beyond_the_plan(backend: WgpuBackend) -> None:
    assert backend.num_dispatches() == 7 * 2 + 1
    assert 0.98 * backend.plan.total_bytes < backend.num_gpu_bytes() <= backend.plan.total_bytes


def test_pieces_that_are_short_enough_give_the_same_bits(
    backend: WgpuBackend, model: LoadedModel, adapter: Adapter
) -> None:
    kind = WgpuBackend(model.config, model.weights, adapter, limits=GpuLimits(submission_ms=0.001), kv_bits=16)
    np.testing.assert_array_equal(logits(kind, [20]), logits(backend, [20]))
    np.testing.assert_array_equal(logits(kind, [1] * 5), logits(backend, [1] * 5))  # of commands recorded ahead
    assert len(kind._model._ahead[1]) == 15
    assert kind.num_submissions() >= 2 * 14  # a dispatch each: nothing is that fast
    kind.close()


def test_a_gpu_that_sees_little_at_once_gets_more_buffers(adapter: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(hidden_size=52, intermediate_size=37, max_position_embeddings=256)
    handle = gpu_device.find_handle(adapter)
    monkeypatch.setattr(gpu_device, "find_handle", lambda _: handle)
    narrow = dataclasses.replace(adapter, max_binding_bytes=50_000)
    whole, small = (
        WgpuBackend(model.config, model.weights, which, kv_bits=16, cache_tokens=96) for which in (adapter, narrow)
    )
    assert len({dispatch.group for dispatch, _ in small._model._layer_runs(1, 1)}) > 2
    assert small.num_dispatches() == whole.num_dispatches() + 1  # a slab of the head
    assert small.num_gpu_bytes() <= small.plan.total_bytes
    np.testing.assert_array_equal(logits(small, [1, 50]), logits(whole, [1, 50]))
    whole.close()
    small.close()


@pytest.mark.skipif(native_module() is None, reason="the native kernels are not built")
def test_python_and_cpp_record_the_same_tokens(backend: WgpuBackend) -> None:
    commands = backend._device._commands
    native, said = commands.player, []
    for player in (native, CffiPlayer(*commands.player_arguments)):
        commands.player = player
        backend._model._schedules.clear()
        backend._model._ahead = None
        cache, ids, tokens = backend.new_cache(), IDS[:5], []
        for _ in range(6):  # from the third token on by what was recorded ahead
            tokens.append(int(backend.forward([Step(cache, ids)])[0][-1].argmax()))
            ids = tokens[-1:]
        said.append(tokens)
    commands.player = native
    backend._model._schedules.clear()
    backend._model._ahead = None
    assert isinstance(native, NativePlayer)
    assert said[0] == said[1]


def test_a_batch_gives_each_sequence_the_bits_that_it_gets_alone(backend: WgpuBackend) -> None:
    prompts = [IDS[:9], IDS[5:6], IDS[3:50], IDS[:1]]
    caches, alone = [backend.new_cache() for _ in prompts], [backend.new_cache() for _ in prompts]
    for turn in range(3):
        together = backend.forward([Step(c, p, 1) for c, p in zip(caches, prompts, strict=True)])
        for i, (cache, prompt) in enumerate(zip(alone, prompts, strict=True)):
            np.testing.assert_array_equal(together[i], backend.forward([Step(cache, prompt, 1)])[0])
        prompts = [[int(row.argmax())] for row in together[:3]] + [IDS[turn : turn + 4]]


def test_a_fork_goes_its_own_way(backend: WgpuBackend) -> None:
    trunk = backend.new_cache()
    backend.forward([Step(trunk, IDS[:40])])
    left, right = trunk.fork(40), trunk.fork(37)
    backend.forward([Step(left, [5, 6])])
    got = backend.forward([Step(right, IDS[37:45], 8)])[0]
    again = backend.forward([Step(trunk, IDS[40:45], 5)])[0]
    expected = logits(backend, [45])
    np.testing.assert_array_equal(got, expected[37:])
    np.testing.assert_array_equal(again, expected[40:])
    left.truncate(3)
    assert (left.length, trunk.length) == (3, 45)


def test_many_sequences_share_more_blocks_than_there_are(model: LoadedModel, adapter: Adapter) -> None:
    small = WgpuBackend(model.config, model.weights, adapter, kv_bits=16, cache_tokens=24 * 32)
    trunk = small.new_cache()
    small.forward([Step(trunk, IDS + IDS + IDS[:20])])
    forks = [trunk.fork(200) for _ in range(12)]
    together = small.forward([Step(fork, [n]) for n, fork in enumerate(forks)])
    del forks
    for n in (0, 11):
        np.testing.assert_array_equal(small.forward([Step(trunk.fork(200), [n])])[0], together[n])
    small.close()


def test_a_lost_device_is_opened_again_and_nothing_is_forgotten(
    backend: WgpuBackend, caplog: pytest.LogCaptureFixture
) -> None:
    expected = logits(backend, [90])
    cache = backend.new_cache()
    backend.forward([Step(cache, IDS[:40])])
    other = cache.fork(33)
    backend._device._device.destroy()  # as a driver's reset does
    np.testing.assert_array_equal(backend.forward([Step(cache, IDS[40:50], 10)])[0], expected[40:50])
    np.testing.assert_array_equal(backend.forward([Step(other, IDS[33:50], 17)])[0], expected[33:50])
    assert "opened again" in caplog.text


def test_misuse_is_named(backend: WgpuBackend, model: LoadedModel, adapter: Adapter) -> None:
    for ids, words in (([], "at least one"), ([268], "vocabulary"), ([1] * 4097, "context")):
        with pytest.raises(EngineError, match=words):
            backend.forward([Step(backend.new_cache(), ids)])
    with pytest.raises(EngineError, match="foreign cache"):
        backend.forward([Step(ReferenceBackend(model.config, model.weights).new_cache(), [1])])
    odd = tiny_model(head_dim=18, partial_rotary_factor=1.0)
    with pytest.raises(GpuError, match="multiple of 4"):
        WgpuBackend(odd.config, odd.weights, adapter)


def test_a_budget_holds_or_says_what_would(model: LoadedModel, adapter: Adapter) -> None:
    with pytest.raises(GpuMemoryError, match="Not one layer fits"):
        WgpuBackend(model.config, model.weights, adapter, limits=GpuLimits(memory_bytes=100_000))


@pytest.mark.skipif(native_module() is None, reason="the native kernels are not built")
def test_layers_that_do_not_fit_run_on_the_cpu(model: LoadedModel, adapter: Adapter, backend: WgpuBackend) -> None:
    budget = backend.plan.total_bytes - backend.plan.cache_bytes * 3 // 4 - backend.plan.head_bytes
    split = WgpuBackend(model.config, model.weights, adapter, limits=GpuLimits(memory_bytes=budget), kv_bits=16)
    assert split.plan.num_gpu_layers == 1
    assert "1 of 2 layers" in split.name
    assert split.num_gpu_bytes() <= budget
    whole = logits(split, [90])
    np.testing.assert_allclose(whole, logits(backend, [90]), atol=0.02)
    np.testing.assert_array_equal(logits(split, [31, 1, 1, 57]), whole)
    cache = split.new_cache()
    split.forward([Step(cache, IDS[:40])])
    np.testing.assert_array_equal(split.forward([Step(cache.fork(33), IDS[33:50], 17)])[0], whole[33:50])
    split.close()


def greedy_difference(first: Backend, second: Backend, prompt: list[int], count: int) -> float:
    """0 where both choose the same tokens; else how far apart the first two that differ are, to the second."""
    caches, ids = (first.new_cache(), second.new_cache()), prompt
    for _ in range(count):
        rows = [b.forward([Step(c, ids)])[0][-1] for b, c in zip((first, second), caches, strict=True)]
        choices = [int(row.argmax()) for row in rows]
        if choices[0] != choices[1]:
            return float(rows[1].max() - rows[1][choices[0]])
        ids = choices[:1]
    return 0.0


LINES = (
    "Good evening!", "What is there to eat?", "Who are you?", "Tell me of the river.", "Where is the mill?",
    "Have you seen a stranger?", "How much is a room?", "What do you sell?", "I lost my ring.", "Is the bridge safe?",
)  # fmt: skip


def compare_with_the_cpu(adapter: Adapter, num_prompts: int, num_tokens: int) -> list[float]:
    files = load_model(embedded_model_path(in_16_bits=True))  # with 8, the CPU rounds activations, too
    marker, end = files.tokenizer.special_id("<extra_id_1>"), files.tokenizer.encode("Assistant\n")
    assert marker is not None
    gpu = WgpuBackend(files.config, files.weights, adapter, cache_tokens=1024)
    cpu = CpuBackend(files.config, files.weights)
    prompts = [
        [marker, *files.tokenizer.encode("User\n" + LINES[n % 10] * (1 + n // 10) + "\n"), marker, *end]
        for n in range(num_prompts)
    ]
    found = [greedy_difference(gpu, cpu, prompt, num_tokens) for prompt in prompts]
    gpu.close()
    return found


@pytest.mark.skipif(native_module() is None, reason="the native kernels are not built")
def test_the_embedded_model_says_what_it_says_on_the_cpu(adapter: Adapter) -> None:
    assert max(compare_with_the_cpu(adapter, 1, 6)) <= 1e-3


@pytest.mark.slow
@pytest.mark.skipif(native_module() is None, reason="the native kernels are not built")
def test_the_embedded_model_says_what_it_says_on_the_cpu_on_fifty_prompts(adapter: Adapter) -> None:
    found = compare_with_the_cpu(adapter, 50, 24)
    print(f"{sum(d > 0 for d in found)} of {len(found)} differ, at ties within {max(found):.1e}")
    assert max(found) <= 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("file_type", ["q4_k_q6_k"])
def test_a_layer_and_the_head_of_the_4b(adapter: Adapter, tmp_path: Path, file_type: str) -> None:
    config = dataclasses.replace(PUBLISHED_SHAPES["nemotron-mini-4b"], num_hidden_layers=1)
    definition = byte_level_definition(("<pad>", "<unk>", "<s>", "</s>", *MARKERS), vocab_size=config.vocab_size)
    write_synthetic(tmp_path / "one.gguf", config, definition, file_type=file_type)
    files = load_model(tmp_path / "one.gguf")
    gpu = WgpuBackend(files.config, files.weights, adapter, cache_tokens=64)
    slabs = gpu.num_dispatches() - 7
    assert slabs > 1
    assert 32 * 7 + slabs <= 230
    steps = [[1000], [2000, 30000, 7]]
    cache, exact = gpu.new_cache(), ReferenceBackend(files.config, files.weights)
    other = exact.new_cache()
    for ids in steps:
        expected = exact.forward([Step(other, ids)])[0]
        got = gpu.forward([Step(cache, ids)])[0]
        assert got.argmax() == expected.argmax()
        np.testing.assert_allclose(got, expected, atol=0.02 * expected.std())  # keys and values have 8 bits
    gpu.close()
