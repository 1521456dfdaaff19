import pytest

from understudy.evaluation.intervals import mean_figure, ratio_figure, share_figure, wilson_interval


@pytest.mark.parametrize(
    ("right", "of", "low", "high"),
    [(0, 0, 0.0, 1.0), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662)],
)
def test_wilsons_interval(right: int, of: int, low: float, high: float) -> None:
    assert wilson_interval(right, of) == pytest.approx((low, high), abs=1e-4)


def test_shares_and_means_count_their_items() -> None:
    (share,) = share_figure("x", "X", [True, False, False, True])
    assert (share.value, share.count) == (0.5, 4)
    assert share_figure("x", "X", []) == mean_figure("x", "X", [], unit="", better="") == ()
    (mean,) = mean_figure("x", "X", [1.0, 3.0], unit="s", better="lower")
    assert (mean.value, mean.low, mean.high) == pytest.approx((2.0, 2 - 1.96, 2 + 1.96), abs=1e-3)
    (single,) = mean_figure("x", "X", [1.0], unit="s", better="lower")
    assert (single.low, single.high) == (None, None)


def test_a_ratio_weighs_its_texts() -> None:
    (figure,) = ratio_figure("x", "X", [2.0, 30.0], [1.0, 9.0], unit="nats", better="lower", count=10)
    assert (figure.value, figure.count) == (3.2, 10)
    assert figure.low is not None
    assert figure.low < 3.2
    (exact,) = ratio_figure("x", "X", [2.0, 4.0], [1.0, 2.0], unit="nats", better="lower", count=3)
    assert exact.low == exact.high == exact.value == 2.0
    assert ratio_figure("x", "X", [], [], unit="nats", better="lower", count=0) == ()
