import math

import numpy as np
import pytest

from understudy.engine import Engine, GenerationRequest, SamplingParams, Step
from understudy.engine.logprobs import token_logprob
from understudy.errors import RequestError
from understudy.model.transformer import ReferenceBackend
from understudy.testing import tiny_model


def test_a_distribution() -> None:
    logits = np.log(np.array([0.1, 0.4, 0.2, 0.3], np.float32)) + 5
    found = token_logprob(logits, 2, num_top=3)
    assert math.exp(found.logprob) == pytest.approx(0.2, rel=1e-6)
    assert [token_id for token_id, _ in found.top] == [1, 3, 2]
    assert [math.exp(logprob) for _, logprob in found.top] == pytest.approx([0.4, 0.3, 0.2], rel=1e-6)


def test_what_a_grammar_leaves() -> None:
    logits = np.log(np.array([0.1, 0.4, 0.2, 0.3], np.float32))
    found = token_logprob(logits, 3, num_top=20, allowed=np.array([0, 3]))
    assert math.exp(found.logprob) == pytest.approx(0.75, rel=1e-6)
    assert [token_id for token_id, _ in found.top] == [3, 0]


def test_extreme_logits() -> None:
    logits = np.array([-math.inf, 3e38, -3e38, 3e38], np.float32)
    found = token_logprob(logits, 0, num_top=2)
    assert found.logprob == -math.inf
    assert found.top == ((1, pytest.approx(-math.log(2))), (3, pytest.approx(-math.log(2))))
    nothing = token_logprob(logits, 0, num_top=1, allowed=np.array([0]))
    assert (nothing.logprob, nothing.top) == (0, ((0, 0.0),))


def test_an_answer_tells_of_each_of_its_tokens() -> None:
    files = tiny_model()
    with Engine(ReferenceBackend(files.config, files.weights), files.tokenizer) as engine:
        prompt = tuple(files.tokenizer.encode("one two one two one"))
        fields = {"prompt_ids": prompt, "max_tokens": 12, "sampling": SamplingParams(temperature=1.5, seed=3)}
        chunks = list(engine.submit(GenerationRequest(**fields, top_logprobs=4)))
        plain = list(engine.submit(GenerationRequest(**fields)))
    found = [one for chunk in chunks for one in chunk.logprobs]
    assert [one.token_id for one in found] == [i for chunk in chunks for i in chunk.token_ids]
    assert [i for chunk in plain for i in chunk.token_ids] == [one.token_id for one in found]
    assert not any(chunk.logprobs for chunk in plain)
    backend = ReferenceBackend(files.config, files.weights)
    cache = backend.new_cache()
    ids = [*prompt, *(one.token_id for one in found)]
    (logits,) = backend.forward([Step(cache, ids[:-1], num_logits=len(ids) - 1)])
    for row, one in zip(logits[len(prompt) - 1 :], found, strict=True):
        expected = row.astype(np.float64) - np.logaddexp.reduce(row.astype(np.float64))
        assert one.logprob == pytest.approx(expected[one.token_id], abs=1e-3)
        assert [i for i, _ in one.top] == [*np.argsort(-expected, kind="stable")[:4]]


@pytest.mark.parametrize("value", [-1, 21, 1.5, True])
def test_too_many(value: object) -> None:
    with pytest.raises(RequestError, match="top_logprobs must be a whole number from 0 to 20"):
        GenerationRequest(prompt_ids=(1,), top_logprobs=value)  # type: ignore[arg-type]
