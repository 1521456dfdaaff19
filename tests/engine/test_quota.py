from understudy.engine.quota import Quota


def test_a_bucket_fills_at_its_rate_and_holds_a_second() -> None:
    now = [0.0]
    quota = Quota(10, clock=lambda: now[0])
    quota.draw("smith", 12)  # a step may overdraw
    assert not quota.may_draw("smith")
    assert quota.may_draw("baker")
    assert quota.may_draw(None)
    now[0] = 0.3
    assert quota.may_draw("smith")
    now[0] = 99
    quota.draw("smith", 10)
    assert not quota.may_draw("smith")


def test_without_a_rate_nobody_is_limited() -> None:
    quota = Quota(None)
    quota.draw("smith", 10**9)
    assert quota.may_draw("smith")
