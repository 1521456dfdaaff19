import pytest

from understudy.server.keys import ApiKey
from understudy.server.limits import Limits
from understudy.server.problem import Problem


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_minutes_worth_then_one_at_a_time() -> None:
    clock = Clock()
    limits, key = Limits(clock=clock), ApiKey.of("x", name="a", requests_per_minute=6)
    for _ in range(6):
        limits.take(key, is_answer=False)
    with pytest.raises(Problem) as caught:
        limits.take(key, is_answer=False)
    assert caught.value.status == 429
    assert caught.value.headers == {"retry-after": "10"}
    clock.now = 10
    limits.take(key, is_answer=False)
    with pytest.raises(Problem):
        limits.take(key, is_answer=False)
    clock.now = 1e6
    for _ in range(6):
        limits.take(key, is_answer=False)
    with pytest.raises(Problem):
        limits.take(key, is_answer=False)


def test_answers_under_way() -> None:
    limits, key = Limits(), ApiKey.of("x", name="a", max_concurrent=2)
    limits.take(key, is_answer=True)
    limits.take(key, is_answer=True)
    with pytest.raises(Problem, match="2 answers under way"):
        limits.take(key, is_answer=True)
    limits.take(key, is_answer=False)
    limits.give_back(key)
    limits.take(key, is_answer=True)


def test_one_keys_limits_are_not_anothers() -> None:
    limits = Limits()
    limits.take(ApiKey.of("x", name="a", requests_per_minute=1, max_concurrent=1), is_answer=True)
    limits.take(ApiKey.of("y", name="b", requests_per_minute=1, max_concurrent=1), is_answer=True)
