"""The compiled backend: equal to NumPy, and to itself however the work is cut."""

import itertools
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from understudy.engine.backend import Backend, Step
from understudy.errors import EngineError
from understudy.kernels.formats import StorageType
from understudy.kernels.native import kernel_names, native_module
from understudy.model.checkpoint import load_model
from understudy.model.gguf_writer import write_gguf
from understudy.model.native_backend import CpuBackend
from understudy.model.synthetic import write_synthetic
from understudy.model.transformer import ReferenceBackend
from understudy.model.weights import Weight
from understudy.testing import byte_tokenizer, tiny_config, tiny_model

pytestmark = pytest.mark.skipif(native_module() is None, reason="the native kernels are not built")

IDS = np.random.default_rng(1).integers(0, 268, 90).tolist()


def logits(backend: Backend, cuts: list[int]) -> np.ndarray:
    cache, at, parts = backend.new_cache(), 0, []
    for cut in cuts:
        parts.append(backend.forward([Step(cache, IDS[at : at + cut], cut)])[0])
        at += cut
    return np.concatenate(parts)


@pytest.fixture(scope="module")
def backend() -> CpuBackend:
    model = tiny_model()
    return CpuBackend(model.config, model.weights, kv_bits=8)


@pytest.mark.parametrize("isa", kernel_names())
@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"hidden_size": 52, "intermediate_size": 37, "vocab_size": 268},
        {"num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 48, "partial_rotary_factor": 0.25},
        {"num_attention_heads": 8, "num_key_value_heads": 8, "partial_rotary_factor": 1.0, "tie_word_embeddings": True},
    ],
)
def test_equal_to_numpy(isa: str, shape: dict[str, float]) -> None:
    model = tiny_model(**shape)
    expected = logits(ReferenceBackend(model.config, model.weights), [90])
    exact = logits(CpuBackend(model.config, model.weights, kernels=isa, kv_bits=16), [90])
    np.testing.assert_allclose(exact, expected, atol=0.01)  # keys and values are rounded to fp16
    rounded = logits(CpuBackend(model.config, model.weights, kernels=isa, kv_bits=8), [90])
    assert np.abs(rounded - expected).mean() < 0.02 * expected.std()


@pytest.mark.parametrize("file_type", ["q4_0", "q4_k", "iq4_xs", "q8_0"])
def test_skipping_zeros_changes_no_logit(file_type: str, tmp_path: Path) -> None:
    config = tiny_config(hidden_size=256, intermediate_size=1024, num_attention_heads=16, num_key_value_heads=16)
    zeros = 0.9 if file_type in ("q4_0", "q4_k") else 0.5
    write_synthetic(tmp_path / "x.gguf", config, byte_tokenizer().definition, file_type=file_type, zeros=zeros)
    model = load_model(tmp_path / "x.gguf")
    backends = [CpuBackend(model.config, model.weights, skip_zeros=skip) for skip in (True, False)]
    for cuts in ([90], [1] * 90, [7] * 12 + [6]):
        np.testing.assert_array_equal(*(logits(backend, cuts) for backend in backends))
    shares = backends[0].zero_shares(IDS)
    assert [abs(share - zeros) < 0.1 for share in shares] == [True] * config.num_hidden_layers


@pytest.mark.parametrize("kv_bits", [8, 16])
@pytest.mark.parametrize("file_type", ["f16", "q8_0"])
def test_cached_equals_full_bit_for_bit(kv_bits: int, file_type: str, tmp_path: Path, config, tensors) -> None:
    write_gguf(tmp_path / "x.gguf", config, tensors, byte_tokenizer().definition, None, file_type=file_type)
    model = load_model(tmp_path / "x.gguf")
    outputs = [
        logits(CpuBackend(model.config, model.weights, kv_bits=kv_bits, num_threads=threads), cuts)
        for threads, cuts in itertools.product((1, 2, 3), ([90], [1] * 90, [31, 2, 57], [64, 26]))
    ]
    for other in outputs[1:]:
        np.testing.assert_array_equal(other, outputs[0])


def test_a_batch_gives_each_sequence_the_bits_that_it_gets_alone(backend: CpuBackend) -> None:
    prompts = [IDS[:9], IDS[5:6], IDS[3:50], IDS[:1]]
    caches, alone = [backend.new_cache() for _ in prompts], [backend.new_cache() for _ in prompts]
    for turn in range(3):
        together = backend.forward([Step(c, p, 1) for c, p in zip(caches, prompts, strict=True)])
        for i, (cache, prompt) in enumerate(zip(alone, prompts, strict=True)):
            np.testing.assert_array_equal(together[i], backend.forward([Step(cache, prompt, 1)])[0])
        prompts = [[int(row.argmax())] for row in together[:3]] + [IDS[turn : turn + 4]]


def test_passes_launched_are_passes_run(backend: CpuBackend) -> None:
    expected = [logits(backend, [20, 1, 9]), logits(backend, [7, 13, 10])]
    caches = [backend.new_cache(), backend.new_cache()]
    parts: list[list[np.ndarray]] = [[], []]
    for first, second in ((20, 7), (1, 13), (9, 10)):
        flights = []
        for cache, cut in zip(caches, (first, second), strict=True):
            ids = IDS[cache.length : cache.length + cut]
            flights.append(backend.launch([Step(cache, ids, cut)]))
        assert [cache.length for cache in caches] == [sum(map(len, part)) for part in parts]  # until they land
        for part, flight in zip(reversed(parts), reversed(flights), strict=True):  # whoever asks first
            part.append(flight.land()[0])
    for part, whole in zip(parts, expected, strict=True):
        np.testing.assert_array_equal(np.concatenate(part), whole)


def test_a_pass_that_nobody_waits_for_ends_before_its_room_is_given_back(backend: CpuBackend) -> None:
    num_free, expected = backend.num_free_tokens(), logits(backend, [30])
    for _ in range(20):
        flight = backend.launch([Step(backend.new_cache(), IDS, 1)])
        del flight
        np.testing.assert_array_equal(logits(backend, [30]), expected)
    backend.launch([Step(backend.new_cache(), IDS, 1)]).settle()
    assert backend.num_free_tokens() == num_free
    with pytest.raises(EngineError, match="outside the vocabulary"):
        backend.launch([Step(backend.new_cache(), [100_000])])


def test_a_fork_goes_its_own_way(backend: CpuBackend) -> None:
    trunk = backend.new_cache()
    backend.forward([Step(trunk, IDS[:40])])
    left, right = trunk.fork(40), trunk.fork(37)
    backend.forward([Step(left, [5, 6])])
    got = backend.forward([Step(right, IDS[37:45], 8)])[0]
    again = backend.forward([Step(trunk, IDS[40:45], 5)])[0]
    expected = logits(backend, [45])
    np.testing.assert_array_equal(got, expected[37:])
    np.testing.assert_array_equal(again, expected[40:])


@pytest.mark.parametrize("kv_bits", [8, 16])
@pytest.mark.parametrize(("start", "length"), [(0, 70), (32, 64), (64, 65), (0, 5)])
def test_pages_that_left_come_back_with_the_same_bits(kv_bits: int, start: int, length: int) -> None:
    model = tiny_model()
    there, here = (CpuBackend(model.config, model.weights, kv_bits=kv_bits) for _ in range(2))
    cache, other = there.new_cache(), there.new_cache()
    there.forward([Step(other, IDS[::-1])])  # leaves its values in blocks that are used again
    del other
    there.forward([Step(cache, IDS)])
    expected = there.forward([Step(cache.fork(length), IDS[length:], 90 - length)])[0]
    pages = there.read_pages(cache, start, length)
    assert pages.shape == (-(-(length - start) // 32), there.page_bytes)
    assert there.kv_format == here.kv_format

    back = here.new_cache()
    if start:
        here.forward([Step(back, IDS[:start])])
    back.reserve(length)
    here.write_pages(back, start, pages)
    back.settle(IDS[start:length])
    np.testing.assert_array_equal(here.read_pages(back, start, length), pages)
    np.testing.assert_array_equal(here.forward([Step(back, IDS[length:], 90 - length)])[0], expected)


@pytest.mark.parametrize("kv_bits", [8, 16])
def test_a_page_shows_nothing_behind_its_last_token(kv_bits: int) -> None:
    model = tiny_model()
    backend = CpuBackend(model.config, model.weights, kv_bits=kv_bits)
    caches = [backend.new_cache(), backend.new_cache()]
    for cache, rest in zip(caches, (IDS[40:60], IDS[60:80]), strict=True):
        backend.forward([Step(cache, [*IDS[:40], *rest])])
    first, second = (backend.read_pages(cache, 0, 40) for cache in caches)
    np.testing.assert_array_equal(first, second)
    assert (first[0] != 0).mean() > 0.9
    assert (first[1] != 0).mean() == pytest.approx(8 / 32, abs=0.05)


def test_pages_are_checked_at_the_border(backend: CpuBackend) -> None:
    cache = backend.new_cache()
    cache.reserve(32)
    with pytest.raises(ValueError, match="size"):
        backend.write_pages(cache, 0, np.zeros((1, 7), np.uint8))
    with pytest.raises(ValueError, match="outside"):
        backend._pool.read_block(1 << 20)


@pytest.mark.parametrize("lengths", [(5, 3, 4), (40, 7, 1), (90, 30, 60)])
@pytest.mark.parametrize("kv_bits", [8, 16])
def test_rows_that_nobody_wants_change_none_that_is_wanted(lengths: tuple[int, ...], kv_bits: int) -> None:
    model = tiny_model()
    backend = CpuBackend(model.config, model.weights, kv_bits=kv_bits, num_threads=2)
    wanted = (0, 2, 1)
    full = backend.forward([Step(backend.new_cache(), IDS[:n], n) for n in lengths])
    caches = [backend.new_cache() for _ in lengths]
    some = backend.forward([Step(c, IDS[:n], k) for c, n, k in zip(caches, lengths, wanted, strict=True)])
    assert [rows.shape for rows in some] == [(0, 268), (2, 268), (1, 268)]
    for rows, every in zip(some, full, strict=True):
        np.testing.assert_array_equal(rows, every[len(every) - len(rows) :])
    for cache, n in zip(caches, lengths, strict=True):  # all are in the cache, even where no logits were wanted
        after = backend.forward([Step(cache, IDS[:4], 1)])[0]
        again = backend.forward([Step(backend.new_cache(), IDS[:n] + IDS[:4], 1)])[0]
        np.testing.assert_array_equal(after, again)


def adapters(weights: Mapping[str, Weight], rank: int, seed: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """LoRA of every matrix that may have one."""
    rng = np.random.default_rng(seed)
    shapes = {name: weight.shape for name, weight in weights.items() if "proj" in name or name == "lm_head.weight"}
    return {
        name: (
            rng.standard_normal((rank, cols)).astype(np.float32) / 8,
            rng.standard_normal((rows, rank)).astype(np.float32) / 8,
        )
        for name, (rows, cols) in shapes.items()
    }


@pytest.mark.parametrize("isa", kernel_names())
@pytest.mark.parametrize("rank", [1, 16, 35])
@pytest.mark.parametrize("shape", [{}, {"hidden_size": 52, "intermediate_size": 37, "vocab_size": 268}])
def test_an_adapter_beside_the_weights_is_one_within_them(isa: str, rank: int, shape: dict[str, int]) -> None:
    model = tiny_model(**shape)
    pairs = adapters(model.weights, rank, 1)
    merged = {
        name: Weight(w.dense() + np.dot(*pairs[name][::-1]), StorageType.F32, w.shape) if name in pairs else w
        for name, w in model.weights.items()
    }
    expected, plain = (logits(ReferenceBackend(model.config, w), [90]) for w in (merged, model.weights))
    base = CpuBackend(model.config, model.weights, kernels=isa, kv_bits=16, num_threads=3)
    voice = base.adapted(pairs)
    found = logits(voice, [90])
    assert np.abs(expected - plain).max() > 1
    np.testing.assert_allclose(found, expected, atol=0.01 * np.abs(expected).max())
    assert np.array_equal(logits(voice, [1, 30, 20, 39]), found)
    np.testing.assert_allclose(logits(base, [90]), plain, atol=0.01)


def test_models_that_share_weights_compute_side_by_side() -> None:
    model = tiny_model()
    base = CpuBackend(model.config, model.weights, num_threads=2)
    voices = [base, *(base.adapted(adapters(model.weights, 4, seed)) for seed in range(3))]
    alone = [logits(voice, [40, 50]) for voice in voices]
    del base
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            found = list(pool.map(lambda voice: logits(voice, [40, 50]), voices))
            assert all(map(np.array_equal, found, alone))
    assert not np.array_equal(alone[0], alone[1])
    flight = voices[1].launch([Step(voices[1].new_cache(), IDS, 90)])
    assert np.allclose(flight.land()[0], alone[1], atol=1e-5)


def test_adapters_are_checked_at_the_border(backend: CpuBackend) -> None:
    a, b = np.ones((2, 64), np.float32), np.ones((64, 2), np.float32)
    for name, (left, right) in {
        "model.layers.0.self_attn.o_proj.weight": (a[:, :60], b),
        "model.layers.1.self_attn.o_proj.weight": (a, b[:60]),
        "model.layers.0.mlp.down_proj.weight": (a[:0], b[:, :0]),
        "lm_head.weight": (a, b),
    }.items():
        with pytest.raises(ValueError, match="does not fit"):
            backend.adapted({name: (left, right)})
    with pytest.raises(ValueError, match="A is"):
        backend.adapted({"model.layers.0.self_attn.o_proj.weight": (a[:1], b)})
    with pytest.raises(KeyError):
        backend.adapted({"model.norm.weight": (a, b)})
    with pytest.raises(ValueError, match="does not fit"):  # its weights are another's, too
        backend.adapted({})._model.set_norm(0, 0, np.ones(64, np.float32), np.ones(64, np.float32))


def test_misuse_is_named(backend: CpuBackend) -> None:
    for ids, words in (([], "at least one"), ([268], "vocabulary"), ([-1], "vocabulary"), ([1] * 4097, "context")):
        with pytest.raises(EngineError, match=words):
            backend.forward([Step(backend.new_cache(), ids)])
    model = tiny_model()
    foreign = CpuBackend(model.config, model.weights).new_cache()
    with pytest.raises(EngineError, match="foreign cache"):
        backend.forward([Step(foreign, [1])])


def test_a_full_cache_fails_the_step_and_loses_nothing() -> None:
    model = tiny_model()
    small = CpuBackend(model.config, model.weights, kv_bits=8, cache_bytes=3 * 4096)
    cache = small.new_cache()
    small.forward([Step(cache, IDS[:20])])
    with pytest.raises(EngineError, match="memory budget"):
        small.forward([Step(cache, [1] * 4000)])
    assert cache.length == 20
    assert small.forward([Step(cache, [1])])[0].shape == (1, 268)


def test_memory(backend: CpuBackend) -> None:
    figures = backend.memory()
    assert figures.cache_bytes_per_token == 2 * 2 * (2 * 16 + 8)
    assert figures.weight_bytes >= 4 * (268 * 64 + 2 * (64 * 16 * 12 + 2 * 64 * 96))
