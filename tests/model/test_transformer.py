"""Equivalences of the reference backend: cached = full, alone = in a batch, dense = unpacked at each use."""

from pathlib import Path

import numpy as np
import pytest

from understudy.engine.backend import Backend, Step
from understudy.errors import EngineError
from understudy.model.checkpoint import load_model
from understudy.model.gguf_writer import write_gguf
from understudy.model.transformer import ReferenceBackend
from understudy.testing import byte_tokenizer, tiny_model

IDS = np.random.default_rng(1).integers(0, 268, 40).tolist()


@pytest.fixture(scope="module")
def backend() -> ReferenceBackend:
    model = tiny_model(max_position_embeddings=700)
    return ReferenceBackend(model.config, model.weights)


def test_it_is_a_backend(backend: ReferenceBackend) -> None:
    typed: Backend = backend
    assert typed.name == "reference"
    assert typed.config.max_position_embeddings == 700


@pytest.mark.parametrize("cuts", [[1] * 40, [7, 1, 32], [39, 1]])
def test_cached_equals_full(backend: ReferenceBackend, cuts: list[int]) -> None:
    full = backend.forward([Step(backend.new_cache(), IDS, len(IDS))])[0]
    cache, rest, parts = backend.new_cache(), list(IDS), []
    for cut in cuts:
        parts.append(backend.forward([Step(cache, rest[:cut], cut)])[0])
        rest = rest[cut:]
    assert cache.length == len(IDS)
    np.testing.assert_allclose(np.concatenate(parts), full, atol=1e-4)


def test_a_batch_gives_each_sequence_the_bits_that_it_gets_alone(backend: ReferenceBackend) -> None:
    prompts = [IDS[:9], IDS[5:6], IDS[3:20], IDS[:1]]
    caches, alone = [backend.new_cache() for _ in prompts], [backend.new_cache() for _ in prompts]
    for turn in range(3):
        together = backend.forward([Step(c, p, 1) for c, p in zip(caches, prompts, strict=True)])
        for i, (cache, prompt) in enumerate(zip(alone, prompts, strict=True)):
            np.testing.assert_array_equal(together[i], backend.forward([Step(cache, prompt, 1)])[0])
        prompts = [[int(logits.argmax())] for logits in together[:3]] + [IDS[turn : turn + 4]]


def test_only_the_wanted_logits_come_back(backend: ReferenceBackend) -> None:
    steps = [Step(backend.new_cache(), IDS[:n], wanted) for n, wanted in ((5, 0), (3, 2), (4, 1))]
    assert [logits.shape for logits in backend.forward(steps)] == [(0, 268), (2, 268), (1, 268)]


def test_truncated_equals_never_seen(backend: ReferenceBackend) -> None:
    cache, fresh = backend.new_cache(), backend.new_cache()
    backend.forward([Step(cache, IDS)])
    cache.truncate(6)
    backend.forward([Step(fresh, IDS[:6])])
    for ids in ([1], [2]):
        np.testing.assert_allclose(
            backend.forward([Step(cache, ids)])[0], backend.forward([Step(fresh, ids)])[0], atol=1e-4
        )
    with pytest.raises(ValueError, match="cut"):
        cache.truncate(9)


def test_the_cache_grows_over_chunks(backend: ReferenceBackend) -> None:
    ids = (IDS * 18)[:700]
    full = backend.forward([Step(backend.new_cache(), ids, 1)])[0]
    cache = backend.new_cache()
    for start in range(0, 700, 100):
        last = backend.forward([Step(cache, ids[start : start + 100], 1)])[0]
    np.testing.assert_allclose(last, full, atol=1e-4)


def test_unpacking_at_each_use_gives_the_same(tmp_path: Path, config, tensors) -> None:
    write_gguf(tmp_path / "x.gguf", config, tensors, byte_tokenizer().definition, None, file_type="q8_0")
    model = load_model(tmp_path / "x.gguf")
    dense = ReferenceBackend(model.config, model.weights)
    stored = ReferenceBackend(model.config, model.weights, max_dense_bytes=0)
    steps = [(IDS[:5], 5), (IDS[:1], 1)]
    a, b = ([*r.forward([Step(r.new_cache(), i, n) for i, n in steps])] for r in (dense, stored))
    for left, right in zip(a, b, strict=True):
        np.testing.assert_allclose(left, right, atol=1e-4)
    assert stored.memory().weight_bytes < dense.memory().weight_bytes
    assert stored.memory().mapped_bytes > dense.memory().mapped_bytes
    assert dense.memory().cache_bytes_per_token == 2 * 2 * 16 * 2 * 4


def test_misuse_is_named(backend: ReferenceBackend) -> None:
    for ids, words in (([], "at least one"), ([268], "vocabulary"), ([-1], "vocabulary"), ([1] * 701, "context")):
        with pytest.raises(EngineError, match=words):
            backend.forward([Step(backend.new_cache(), ids)])
    cache = tiny_model()
    with pytest.raises(EngineError, match="foreign cache"):
        backend.forward([Step(cache, [1])])  # type: ignore[arg-type]
