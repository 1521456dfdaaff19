"""Vectors of texts are what NumPy's pass gives, whatever computes them and however they are cut into steps."""

import numpy as np
import pytest

from understudy.engine import Engine, EngineOptions, Step
from understudy.errors import ContextLengthError, RequestError
from understudy.kernels.native import native_module
from understudy.model.native_backend import CpuBackend
from understudy.model.transformer import ReferenceBackend
from understudy.testing import tiny_model

TEXTS = [[5, 6, 7], list(range(10, 90)), [9]]


def expected() -> list[np.ndarray]:
    files = tiny_model()
    backend = ReferenceBackend(files.config, files.weights)
    means = [backend.hidden_states([Step(backend.new_cache(), ids)])[0].mean(axis=0) for ids in TEXTS]
    return [mean / np.linalg.norm(mean) for mean in means]


@pytest.mark.parametrize("kind", [ReferenceBackend, CpuBackend])
@pytest.mark.parametrize("step_tokens", [7, 256])
def test_steps_and_batches_change_nothing(kind: type, step_tokens: int) -> None:
    if kind is CpuBackend and native_module() is None:
        pytest.skip("the native kernels are not built")
    files = tiny_model()
    options = EngineOptions(prefill_tokens=step_tokens)
    with Engine(kind(files.config, files.weights), files.tokenizer, options=options) as engine:
        found = engine.embed(TEXTS)
    assert found.shape == (3, files.config.hidden_size)
    np.testing.assert_allclose(found, expected(), atol=1e-6 if kind is ReferenceBackend else 0.02)


def test_hidden_states_are_what_the_head_reads() -> None:
    files = tiny_model()
    backend = ReferenceBackend(files.config, files.weights)
    (hidden,) = backend.hidden_states([Step(backend.new_cache(), TEXTS[1])])
    (logits,) = backend.forward([Step(backend.new_cache(), TEXTS[1], num_logits=len(TEXTS[1]))])
    name = "model.embed_tokens.weight" if files.config.tie_word_embeddings else "lm_head.weight"
    np.testing.assert_allclose(hidden @ files.weights[name].dense().T, logits, rtol=1e-4, atol=1e-4)


def test_faults() -> None:
    files = tiny_model()
    with Engine(ReferenceBackend(files.config, files.weights), files.tokenizer) as engine:
        with pytest.raises(RequestError):
            engine.embed([[]])
        with pytest.raises(RequestError):
            engine.embed([[files.config.vocab_size]])
        with pytest.raises(ContextLengthError):
            engine.embed([[1] * (files.config.max_position_embeddings + 1)])
        assert engine.embed([[1, 2]], is_cancelled=lambda: True).shape == (1, files.config.hidden_size)
