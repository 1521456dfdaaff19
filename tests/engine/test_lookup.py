from typing import TYPE_CHECKING

import pytest

from understudy.engine.lookup import PromptLookup
from understudy.engine.request import SamplingParams
from understudy.kernels.native import native_module
from understudy.model.native_backend import CpuBackend
from understudy.testing import tiny_model

if TYPE_CHECKING:
    from conftest import Lab


def test_it_proposes_what_followed_before() -> None:
    lookup = PromptLookup(3)
    assert lookup.draft([1, 2, 3, 4, 5, 6, 7], 9) == []
    assert lookup.draft([1, 2, 3, 4, 5, 6, 7, 2, 3, 4], 9) == [5, 6, 7]
    assert lookup.draft([1, 2, 3, 4, 5, 6, 7, 2, 3, 4], 2) == [5, 6]
    assert lookup.draft([1, 2, 3, 4, 5, 6, 7, 2, 3, 4, 8], 9) == []
    assert PromptLookup(0).draft([1, 2, 3, 1, 2, 3, 1], 9) == []


def test_it_stops_while_it_is_wrong_and_tries_again() -> None:
    lookup, ids = PromptLookup(4), [1, 2, 3, 4] * 5
    assert len(lookup.draft(ids, 9)) == 4
    for _ in range(6):
        lookup.learn(4, 0)
    silent = 0
    while not lookup.draft(ids, 9):
        silent += 1
    assert 3 < silent < 30


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_drafts_change_the_number_of_steps_and_nothing_else(lab: "Lab", temperature: float) -> None:
    text = "The bell rings. The bell rings. The bell "
    request = lab.request(
        text,
        max_tokens=60,
        sampling=SamplingParams(temperature=temperature, seed=3, frequency_penalty=0.1),
        stop_token_ids=frozenset(),
        stop=("zz",),
    )
    script = list(b"rings. The bell rings loudly. The bell rings loudly. The bell rings loudly.")
    found = []
    for draft_tokens in (0, 4):
        engine = lab.scripted(lambda ids: lab.byte(script[(len(ids) - len(text)) % len(script)]))
        backend = lab.backends[-1]
        backend.draft_tokens = draft_tokens
        generation = engine.submit(request)
        found.append(("".join(c.text for c in generation), generation.usage, len(backend.steps)))
    assert found[0][:2] == found[1][:2]
    assert found[0][1].completion_tokens == 60
    assert found[1][2] < 0.7 * found[0][2]


@pytest.mark.skipif(native_module() is None, reason="the native kernels are not built")
@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_a_real_model_says_the_same_with_drafts(
    lab: "Lab", temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model()
    sampling = SamplingParams(temperature=temperature, seed=1)
    request = lab.request(
        "tick and tock, tick and tock, ", max_tokens=80, sampling=sampling, stop_token_ids=frozenset()
    )
    said = []
    for draft_tokens in (0, 5):
        monkeypatch.setattr(CpuBackend, "draft_tokens", draft_tokens)
        engine = lab.open(CpuBackend(model.config, model.weights))
        generation = engine.submit(request)
        said.append(([i for c in generation for i in c.token_ids], generation.usage))
    assert said[0] == said[1]
