import pytest

from understudy.evaluation.text_match import exact_match, normalized, token_f1


def test_squads_normalisation() -> None:
    assert normalized("The  Well-to-do farmer, AN old man's!") == "welltodo farmer old mans"
    assert normalized("\u201cA cat\u2019s\u201d") == "cats"
    assert normalized("theatre") == "theatre"


def test_exact_match_takes_any_truth() -> None:
    assert exact_match("On the wall.", ["a roof", "on a wall"])
    assert not exact_match("on a wall there", ["on a wall"])


@pytest.mark.parametrize(
    ("answer", "truths", "f1"),
    [
        ("on the wall", ["on a wall"], 1.0),
        ("wall", ["on a wall"], 2 / 3),
        ("wall", ["roof", "wall"], 1.0),
        ("wall wall", ["wall"], 2 / 3),
        ("sea", ["wall"], 0.0),
        ("", ["wall"], 0.0),
        ("the", ["a"], 1.0),
        ("wall", [], 0.0),
    ],
)
def test_token_f1(answer: str, truths: list[str], f1: float) -> None:
    assert token_f1(answer, truths) == pytest.approx(f1)
