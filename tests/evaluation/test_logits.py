import numpy as np
import pytest

from understudy.evaluation import logits as module
from understudy.evaluation.logits import divergence, next_token_logits, token_nats
from understudy.model.transformer import ReferenceBackend
from understudy.testing import tiny_model


@pytest.fixture(scope="module")
def backend() -> ReferenceBackend:
    model = tiny_model()
    return ReferenceBackend(model.config, model.weights)


def test_pieces_give_the_whole(backend: ReferenceBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = np.random.default_rng(0).integers(12, 268, 40).tolist()
    (whole,) = [found for _, found in next_token_logits(backend, ids)]
    monkeypatch.setattr(module, "_MAX_PIECE", 7)
    pieces = list(next_token_logits(backend, ids))
    assert [place for places, _ in pieces for place in places] == list(range(1, 40))
    np.testing.assert_allclose(np.concatenate([found for _, found in pieces]), whole, atol=1e-4)
    is_wanted = [place in (10, 12, 30) for place in range(40)]
    some = {
        place: row
        for places, found in next_token_logits(backend, ids, is_wanted)
        for place, row in zip(places, found, strict=True)
    }
    assert set(some) == {10, 11, 12, 13, 14, 30, 31, 32, 33, 34, 35}
    np.testing.assert_allclose(some[30], whole[29], atol=1e-4)


def test_nats_and_divergence(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    parent, model = (rng.standard_normal((5, 50)).astype(np.float32) * 4 + 100 for _ in range(2))
    p, q = (np.exp(x.astype(np.float64)) / np.exp(x.astype(np.float64)).sum(1, keepdims=True) for x in (parent, model))
    expected = (p * np.log(p / q)).sum(1)
    for block in (1 << 14, 16):
        monkeypatch.setattr(module, "_VOCAB_BLOCK", block)
        np.testing.assert_allclose(
            token_nats(parent, [0, 1, 2, 3, 49]), -np.log(p[range(5), [0, 1, 2, 3, 49]]), rtol=1e-6
        )
        nats, agrees = divergence(parent, model)
        np.testing.assert_allclose(nats, expected, rtol=1e-6)
        assert agrees.tolist() == (p.argmax(1) == q.argmax(1)).tolist()
    nats, agrees = divergence(parent, parent)
    assert nats.tolist() == [0.0] * 5
    assert agrees.all()
