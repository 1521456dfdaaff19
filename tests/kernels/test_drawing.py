import numpy as np
import pytest

from understudy.kernels.drawing import (
    DrawRule,
    allowed_places,
    allowed_words,
    draw,
    draw_reference,
    draw_rows,
    survey,
    survey_reference,
)
from understudy.kernels.native import kernel_names, native_module

RNG = np.random.default_rng(5)


def cases(count: int) -> "list[tuple[np.ndarray, dict[str, float]]]":
    """Logits of any size and kind, many of them equal, some banned, and rules."""
    found = []
    for _ in range(count):
        logits = RNG.standard_normal(RNG.choice([1, 2, 5, 40, 600, 3000])) * RNG.choice([0.1, 1, 5])
        logits = np.round(logits, RNG.choice([1, 2, 6])).astype(RNG.choice([np.float32, np.float64]))
        if RNG.random() < 0.2:
            logits[1:][RNG.random(logits.size - 1) < 0.5] = -np.inf
        rule = {
            "temperature": float(RNG.choice([1e-6, 0.3, 0.7, 1, 2])),
            "top_k": int(RNG.choice([0, 1, 5, 40, 700])),
            "top_p": float(RNG.choice([1, 0.99, 0.9, 0.5, 0])),
            "min_p": float(RNG.choice([0, 0.05, 0.5, 1])),
            "uniform": float(RNG.random()),
        }
        found.append((logits, rule))
    return found


@pytest.mark.parametrize("kernels", kernel_names())
def test_the_compiled_draw_is_the_references(kernels: str) -> None:
    native = native_module()
    assert native is not None
    for logits, rule in cases(1500):
        highest = float(logits.max())
        assert native.draw(logits, highest, **rule, kernels=kernels) == draw_reference(logits, highest, **rule)


@pytest.mark.parametrize("size", [700, 40_000])
@pytest.mark.parametrize("top_p", [0.3, 0.95, 1.0])
def test_shares_are_the_probabilities(size: int, top_p: float) -> None:
    logits = np.zeros(size, np.float32)
    logits[[3, 9]] = np.log([size, 2 * size])
    uniforms = (np.arange(300) + 0.5) / 300
    rule = {"temperature": 1.0, "top_k": 0, "top_p": top_p, "min_p": 0.0}
    drawn = [draw(logits, float(logits.max()), **rule, uniform=u) for u in uniforms]
    shares = np.bincount(drawn, minlength=size)[[3, 9]] / 300
    expected = {0.3: (0, 1), 0.95: (0.263, 0.526), 1.0: (0.25, 0.5)}[top_p]
    np.testing.assert_allclose(shares, expected, atol=0.008)


def test_the_last_token_can_be_drawn_and_a_banned_one_never() -> None:
    logits = np.array([0.0, -np.inf, 0.0, -np.inf])
    rule = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    assert [draw(logits, 0.0, **rule, uniform=u) for u in (0.0, 0.49, 0.5, 1 - 2**-53)] == [0, 0, 2, 2]


def test_words_of_what_is_allowed() -> None:
    for size in (1, 31, 32, 33, 268):
        places = RNG.random(size) < 0.5
        words = allowed_words(places)
        assert (words.dtype, words.size) == (np.uint32, (size + 31) // 32)
        np.testing.assert_array_equal(allowed_places(words, size), np.flatnonzero(places))
    np.testing.assert_array_equal(allowed_places(np.array([5], np.uint32), 268), [0, 2])


@pytest.mark.parametrize("kernels", kernel_names())
def test_what_is_not_allowed_is_as_if_it_were_not_there(kernels: str) -> None:
    native = native_module()
    assert native is not None
    num_drawn = 0
    for logits, rule in cases(1500):
        places = RNG.random(logits.size) < RNG.choice([0, 0.02, 0.5, 0.98, 1])
        words = allowed_words(places)
        found = native.survey(logits, words, kernels)
        assert found == survey_reference(logits, words)
        assert native.survey(logits, kernels=kernels) == survey_reference(logits) == survey(logits)
        place, highest, count = found
        assert count == min(2, np.count_nonzero(places))
        if highest > -np.inf:
            assert places[place]
            num_drawn += 1
            alone = draw_reference(logits[places], highest, **rule)
            expected = np.flatnonzero(places)[alone]
            assert native.draw(logits, highest, **rule, allowed=words, kernels=kernels) == expected
    assert num_drawn > 900


@pytest.mark.parametrize("kernels", kernel_names())
def test_a_survey_sees_what_is_no_number(kernels: str) -> None:
    native = native_module()
    assert native is not None
    for size in (1, 33, 300):
        for bad in (np.nan, np.inf):
            for dtype in (np.float32, np.float64):
                logits = np.zeros(size, dtype)
                logits[size - 1] = bad
                words = allowed_words(np.arange(size) < size // 2)
                assert np.isnan(native.survey(logits, words, kernels)[1])
                assert np.isnan(survey_reference(logits, words)[1])


@pytest.mark.parametrize("kernels", kernel_names())
def test_rows_drawn_together_are_rows_drawn_alone(kernels: str) -> None:
    native = native_module()
    assert native is not None
    found = cases(300)
    rows = [logits for logits, _ in found]
    rules = [DrawRule(**{**rule, "temperature": rule["temperature"] * (RNG.random() < 0.8)}) for _, rule in found]  # type: ignore[arg-type]
    for (place, highest), row, rule in zip(native.draw_rows(rows, rules, kernels), rows, rules, strict=True):
        assert highest == float(row.max())
        first = int(row.argmax())
        assert place == (draw_reference(row, highest, **rule._asdict()) if rule.temperature else first)


@pytest.mark.parametrize("has_native", [True, False])
def test_where_nothing_can_be_drawn_the_highest_tells(monkeypatch: pytest.MonkeyPatch, has_native: bool) -> None:
    if not has_native:
        monkeypatch.setattr("understudy.kernels.drawing.native_module", lambda: None)
    rule = DrawRule(0.7, 0, 1.0, 0.0, 0.5)
    damaged, banned, plain = np.array([1, np.nan], np.float32), np.full(3, -np.inf), np.array([0.0, 30.0])
    drawn = draw_rows([damaged, banned, plain, plain], [rule, rule, rule, rule._replace(temperature=0.0)])
    assert np.isnan(drawn[0][1])
    assert drawn[1:] == [(0, -np.inf), (1, 30.0), (1, 30.0)]


def test_rows_and_rules_are_checked() -> None:
    native = native_module()
    assert native is not None
    row, rule = np.zeros(3, np.float32), DrawRule(1.0, 0, 1.0, 0.0, 0.5)
    for rows, rules, message in (
        ([row], [], "a rule for each row"),
        ([row[:0]], [rule], "no logits"),
        ([row.astype(np.int64)], [rule], "floats or doubles"),
        ([row], [rule._replace(uniform=1.0)], "uniform number"),
        ([row], [rule._replace(temperature=-1.0)], "a temperature"),
    ):
        with pytest.raises(ValueError, match=message):
            native.draw_rows(rows, rules)
