import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.engine import Sampler, SamplingParams
from understudy.errors import EngineError, RequestError

LOGITS = np.log(np.array([0.1, 0.4, 0.2, 0.05, 0.25], np.float32))


def draw(count: int, *, prompt_ids: tuple[int, ...] = (), logits: np.ndarray = LOGITS, **params: object) -> list[int]:
    """First tokens of so many sequences with seeds 0, 1, ..."""
    return [
        Sampler(SamplingParams(seed=s, **params), prompt_ids=prompt_ids).sample(logits)  # type: ignore[arg-type]
        for s in range(count)
    ]


def test_greedy_takes_the_first_of_the_highest() -> None:
    assert draw(3, temperature=0) == [1, 1, 1]
    assert draw(1, temperature=0, logits=np.zeros(5, np.float32)) == [0]


def test_default_draws_from_the_models_distribution() -> None:
    shares = np.bincount(draw(4000), minlength=5) / 4000
    np.testing.assert_allclose(shares, np.exp(LOGITS), atol=0.03)


@pytest.mark.parametrize(
    ("params", "allowed"),
    [
        ({"top_k": 1}, {1}),
        ({"top_k": 2}, {1, 4}),
        ({"top_k": 99}, {0, 1, 2, 3, 4}),
        ({"top_p": 0.0}, {1}),
        ({"top_p": 0.39}, {1}),
        ({"top_p": 0.5}, {1, 4}),
        ({"top_p": 0.86}, {0, 1, 2, 4}),
        ({"min_p": 0.45}, {1, 2, 4}),
        ({"min_p": 1.0}, {1}),
        ({"top_k": 3, "top_p": 0.7}, {1, 4}),  # top-p is taken of what top-k leaves: 0.47, 0.29, 0.24
        ({"logit_bias": {1: -100, 4: -100}}, {0, 2, 3}),
        ({"logit_bias": {3: 100}}, {3}),
        ({"temperature": 0.01}, {1}),
        ({"temperature": 1e-300}, {1}),
    ],
)
def test_kept_tokens(params: dict[str, object], allowed: set[int]) -> None:
    assert set(draw(400, **params)) == allowed


def test_min_p_follows_temperature() -> None:
    assert set(draw(400, temperature=2, min_p=0.6)) == {1, 2, 4}
    assert set(draw(400, temperature=0.5, min_p=0.35)) == {1, 4}


def test_a_banned_token_stays_banned_at_any_logit() -> None:
    logits = np.array([0, 3e38, 0], np.float32)
    assert draw(1, temperature=0, logits=logits, logit_bias={1: -100}) == [0]


@pytest.mark.parametrize("how", [{}, {"top_p": 0.9}, {"top_k": 40, "min_p": 0.01}, {"temperature": 0.0}])
def test_bans_alone_leave_the_draw_of_the_others_as_it_is(how: dict[str, float]) -> None:
    rng = np.random.default_rng(3)
    bans = {int(i): -100.0 for i in rng.integers(0, 2000, 30)}
    free = next(i for i in range(2000) if i not in bans)
    for seed in range(20):
        logits = np.round(rng.standard_normal(2000) * 3, 2).astype(np.float32)
        banned = Sampler(SamplingParams(seed=seed, logit_bias=bans, **how))  # type: ignore[arg-type]
        biased = Sampler(SamplingParams(seed=seed, logit_bias={**bans, free: 0.0}, **how))  # type: ignore[arg-type]
        drawn = [banned.sample(logits) for _ in range(5)]
        assert drawn == [biased.sample(logits) for _ in range(5)]
        assert not bans.keys() & set(drawn)
    logits[next(iter(bans))] = np.nan
    with pytest.raises(EngineError, match="not numbers"):
        banned.sample(logits)


def test_repetition_penalty_counts_prompt_and_output() -> None:
    sampler = Sampler(SamplingParams(temperature=0, repetition_penalty=2.0), prompt_ids=[2])
    logits = np.array([1.0, 3.0, 5.0, -1.0], np.float32)
    assert [sampler.sample(logits) for _ in range(3)] == [1, 2, 2]  # 3.0 beats 5.0 / 2, then 5.0 / 2 beats 3.0 / 2
    negative = Sampler(SamplingParams(temperature=0, repetition_penalty=2.0), prompt_ids=[0])
    assert negative.sample(np.array([-1.0, -1.5], np.float32)) == 1


def test_frequency_and_presence_count_output_only() -> None:
    logits = np.array([1.0, 0.0, 0.0], np.float32)
    frequency = Sampler(SamplingParams(temperature=0, frequency_penalty=0.6), prompt_ids=[0, 0, 0])
    assert [frequency.sample(logits) for _ in range(4)] == [0, 0, 1, 2]
    presence = Sampler(SamplingParams(temperature=0, presence_penalty=0.6), prompt_ids=[0, 0, 0])
    assert [presence.sample(logits) for _ in range(4)] == [0, 0, 0, 0]


def test_same_seed_same_tokens() -> None:
    def run(seed: int) -> list[int]:
        sampler = Sampler(SamplingParams(seed=seed))
        return [sampler.sample(LOGITS) for _ in range(50)]

    assert run(7) == run(7) != run(8)
    assert run(-1) == run(2**64 - 1)


def test_the_callers_logits_are_left_alone() -> None:
    logits = LOGITS.copy()
    draw(1, logits=logits, top_k=2, top_p=0.5, logit_bias={0: 5}, repetition_penalty=1.5, prompt_ids=(1,))
    np.testing.assert_array_equal(logits, LOGITS)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("temperature", [0, 1])
def test_logits_that_are_no_numbers(bad: float, temperature: float) -> None:
    logits = LOGITS.copy()
    logits[2] = bad
    with pytest.raises(EngineError, match="not numbers"):
        draw(1, logits=logits, temperature=temperature)


def test_all_banned() -> None:
    with pytest.raises(EngineError, match="No token is left"):
        draw(1, logit_bias=dict.fromkeys(range(5), -100))


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", float("nan")),
        ("temperature", "hot"),
        ("temperature", True),
        ("top_p", 1.1),
        ("min_p", -1),
        ("top_k", -1),
        ("top_k", 1.5),
        ("repetition_penalty", 0),
        ("frequency_penalty", 3),
        ("presence_penalty", -3),
        ("seed", 1.0),
        ("seed", 2**64),
        ("logit_bias", {5: 101}),
        ("logit_bias", {-1: 1}),
        ("logit_bias", {"5": 1}),
    ],
)
def test_ranges(param: str, value: object) -> None:
    with pytest.raises(RequestError, match=param) as caught:
        SamplingParams(**{param: value})  # type: ignore[arg-type]
    assert caught.value.param == param


def drawn_plainly(logits: np.ndarray, seed: int, *, temperature: float, top_p: float, top_k: int, min_p: float) -> int:
    """The rule as it is written down: sort all, keep, draw."""
    ordered = np.argsort(-logits, kind="stable")
    weights = np.exp((logits[ordered].astype(np.float64) - logits.max()) / temperature)
    if top_k:
        weights[logits[ordered] < logits[ordered[top_k - 1]]] = 0
    weights /= weights.sum()
    kept = (np.cumsum(weights) - weights < top_p) & (weights >= min_p * weights[0])
    shares = np.zeros(logits.size)
    shares[ordered[kept]] = weights[kept]
    sums = np.cumsum(shares)
    return int(np.searchsorted(sums, np.random.Generator(np.random.PCG64(seed)).random() * sums[-1], side="right"))


@pytest.mark.parametrize("size", [1000, 70_000])
@pytest.mark.parametrize("spread", [1.0, 6.0])
@pytest.mark.parametrize(
    ("temperature", "top_p", "top_k", "min_p"),
    [(0.8, 1.0, 0, 0.0), (0.8, 0.9, 0, 0.0), (2.0, 0.5, 0, 0.0), (1.0, 1.0, 40, 0.0), (1.5, 0.95, 990, 0.02)],
)
def test_large_vocabularies_are_drawn_from_by_the_same_rule(
    size: int, spread: float, temperature: float, top_p: float, top_k: int, min_p: float
) -> None:
    rng = np.random.default_rng(7)
    how = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "min_p": min_p}
    for seed in range(4):
        logits = np.round(rng.standard_normal(size) * spread, 2).astype(np.float32)  # many are equal
        drawn = Sampler(SamplingParams(seed=seed, **how)).sample(logits)  # type: ignore[arg-type]
        assert drawn == drawn_plainly(logits, seed, **how)  # type: ignore[arg-type]


def test_of_equal_tokens_the_first_are_the_nucleus() -> None:
    drawn = draw(30, logits=np.zeros(50_000, np.float32), top_p=0.3)
    assert 10_000 < max(drawn) < 15_000


@pytest.mark.parametrize("size", [5, 50_000])
def test_extreme_logits_are_drawn_from(size: int) -> None:
    logits = np.full(size, -3e38, np.float32)
    logits[3] = 3e38
    assert draw(1, logits=logits, top_p=0.9, temperature=1e-6) == [3]
    assert draw(1, logits=logits, top_p=0.9, min_p=0.1, repetition_penalty=1e-3, prompt_ids=(3,)) == [3]


@settings(deadline=None, derandomize=True)
@given(
    logits=st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=40),
    temperature=st.floats(0, 2),
    top_p=st.floats(0, 1),
    top_k=st.integers(0, 50),
    min_p=st.floats(0, 1),
    seed=st.integers(0, 2**64 - 1),
)
def test_a_token_always_comes(
    logits: list[float], temperature: float, top_p: float, top_k: int, min_p: float, seed: int
) -> None:
    params = SamplingParams(temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p, seed=seed)
    values = np.array(logits, np.float32)
    token = Sampler(params).sample(values)
    assert 0 <= token < len(logits)
    if top_k:
        assert values[token] >= np.sort(values)[-min(top_k, len(logits))]
