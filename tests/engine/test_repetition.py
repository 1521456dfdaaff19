import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.engine import Sampler, SamplingParams
from understudy.engine.repetition import RepetitionGuard, sequence_breakers
from understudy.errors import RequestError
from understudy.kernels.drawing import allowed_words
from understudy.testing import byte_tokenizer

IDS = st.lists(st.integers(0, 3), max_size=60)


def expected(ids: list[int], breakers: set[int], allowed: int) -> dict[int, int]:
    """The definition, word for word: the longest repetition that each token would go on with."""
    found: dict[int, int] = {}
    for end in range(len(ids) - 1):
        length = 0
        while length <= end and ids[end - length] == ids[-1 - length] not in breakers:
            length += 1
        if length >= allowed and ids[end + 1] not in breakers:
            found[ids[end + 1]] = max(length, found.get(ids[end + 1], 0))
    return found


def guard(allowed: int = 2, breakers: frozenset[int] = frozenset(), ids: list[int] | None = None) -> RepetitionGuard:
    return RepetitionGuard(multiplier=0.8, base=1.75, allowed_length=allowed, breakers=breakers, token_ids=ids or [])


@given(IDS, IDS, st.frozensets(st.integers(0, 3), max_size=2), st.integers(1, 4))
def test_equal_to_its_definition(prompt: list[int], output: list[int], breakers: frozenset[int], allowed: int) -> None:
    watching = guard(allowed, breakers, prompt)
    for number in range(len(output) + 1):
        ids, amounts = watching.penalties()
        wanted = expected(prompt + output[:number], set(breakers), allowed)
        wanted = {token: min(length, 64) for token, length in wanted.items()}
        assert dict(zip(ids.tolist(), amounts.tolist(), strict=True)) == pytest.approx(
            {token: 0.8 * 1.75 ** (length - allowed) for token, length in wanted.items()}
        )
        if number < len(output):
            watching.add(output[number])


def test_a_long_sequence_grows_and_stays_finite() -> None:
    watching = guard()
    for _ in range(5000):
        watching.add(7)
    ids, amounts = watching.penalties()
    assert ids.tolist() == [7]
    assert amounts.tolist() == pytest.approx([0.8 * 1.75**62])


def test_a_sampler_breaks_out_of_a_loop() -> None:
    logits = np.zeros(8, np.float32)
    ring = {1: 2, 2: 3, 3: 1}  # the model's own wish, for ever

    def said(**fields: object) -> list[int]:
        sampler = Sampler(SamplingParams(temperature=0, **fields), prompt_ids=[1])  # type: ignore[arg-type]
        out = [1]
        for _ in range(12):
            row = logits.copy()
            row[ring.get(out[-1], 1)] = 2.0
            out.append(sampler.sample(row))
        return out[1:]

    assert said() == [2, 3, 1] * 4
    assert said(dry_multiplier=0.8)[:6] == [2, 3, 1, 2, 3, 1]  # a repetition of two costs 0.8, of three 1.4
    assert said(dry_multiplier=0.8)[6] != 2  # of four 2.45: more than the model's wish
    assert said(dry_multiplier=3)[4] != 3
    assert said(dry_multiplier=3, dry_breakers=frozenset({3})) == [2, 3, 1] * 4


def test_what_stands_at_the_prompts_beginning_may_be_repeated() -> None:
    prompt = [5, 6, 7, 9, 5, 6]
    logits = np.zeros(10, np.float32)
    logits[7], logits[8] = 1.0, 0.9
    for skipped, token in ((0, 8), (4, 7), (99, 7)):
        params = SamplingParams(temperature=0, dry_multiplier=1, dry_skip_tokens=skipped)
        assert Sampler(params, prompt_ids=prompt).sample(logits) == token


def test_forced_tokens_count_too() -> None:
    sampler = Sampler(SamplingParams(temperature=0, dry_multiplier=5))
    for token in (5, 6, 7, 5, 6):
        sampler.count(token)
    logits = np.zeros(10, np.float32)
    logits[7] = 1.0
    assert sampler.sample(logits) != 7
    assert sampler.sample(logits, allowed_words(np.arange(10) == 7)) == 7  # what a grammar forces is beyond any penalty


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dry_multiplier", -1),
        ("dry_multiplier", float("nan")),
        ("dry_multiplier", True),
        ("dry_base", 0.5),
        ("dry_base", 5),
        ("dry_allowed_length", 0),
        ("dry_allowed_length", 1.5),
        ("dry_skip_tokens", -1),
        ("dry_breakers", frozenset({-1})),
        ("dry_breakers", frozenset({"x"})),
    ],
)
def test_values_out_of_range(field: str, value: object) -> None:
    with pytest.raises(RequestError) as caught:
        SamplingParams(**{field: value})  # type: ignore[arg-type]
    assert caught.value.param == field


def test_breakers_of_a_vocabulary() -> None:
    tokenizer = byte_tokenizer()
    breakers = sequence_breakers(tokenizer)
    assert {tokenizer.encode(c)[0] for c in '\n:"*'} < breakers
    assert set(tokenizer.specials.values()) < breakers
    assert len(breakers) == 4 + len(tokenizer.specials)
    assert sequence_breakers(tokenizer, ()) == set(tokenizer.specials.values())


def test_a_step_costs_little() -> None:
    ids = np.random.default_rng(1).integers(0, 5000, 4000).tolist()
    watching = guard(ids=ids)
    began = time.process_time()
    for token in ids[:100]:
        watching.penalties()
        watching.add(token)
    assert time.process_time() - began < 0.1  # a millisecond each; some 20 microseconds where nobody else works
