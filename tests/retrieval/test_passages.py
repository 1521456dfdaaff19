import random

import pytest

from understudy.retrieval.passages import count_words, split_text


def test_paragraphs_are_packed_to_the_bound() -> None:
    text = "One two three.\n\nFour five.\n\n\nSix seven eight nine."
    assert list(split_text(text, max_words=5)) == [(1, "One two three.\n\nFour five."), (6, "Six seven eight nine.")]


def test_a_long_paragraph_is_divided_at_sentences() -> None:
    text = 'He said "No." Then he went. She stayed!'
    assert [piece for _, piece in split_text(text, max_words=6)] == ['He said "No." Then he went.', "She stayed!"]


def test_a_long_sentence_is_divided_at_words() -> None:
    assert [piece for _, piece in split_text("a b c d e", max_words=2)] == ["a b", "c d", "e"]


def test_scripts_without_spaces_are_bounded_too() -> None:
    pieces = [piece for _, piece in split_text("川は町を流れる。" * 30, max_words=40)]
    assert len(pieces) > 4
    assert all(count_words(piece) <= 40 for piece in pieces)


def test_lines_are_those_of_the_text() -> None:
    text = "\n\nalpha\nbeta\n\n\ngamma"
    assert list(split_text(text, first_line=10, max_words=2)) == [(12, "alpha beta"), (16, "gamma")]


def test_nothing_is_lost_and_nothing_is_too_long() -> None:
    draw = random.Random(3)
    for _ in range(200):
        words = [draw.choice(["ash", "oak.", "elm!\n\n", "fir\n", "bog-oak", 'yew."', "湖", "\t"]) for _ in range(80)]
        text, bound = " ".join(words), draw.randint(1, 30)
        pieces = [piece for _, piece in split_text(text, max_words=bound)]
        assert "".join("".join(pieces).split()) == "".join(text.split())
        assert all(count_words(piece) <= max(bound, 2) for piece in pieces)


@pytest.mark.parametrize("text", ["", " \n\t\n", "\n" * 1000])
def test_no_text_no_passage(text: str) -> None:
    assert list(split_text(text)) == []


def test_much_of_one_thing_takes_no_minutes() -> None:
    for text in (" " * 10**5, "x" * 10**5, "x " * 50_000, "." * 10**5, ". " * 50_000):
        assert sum(count_words(piece) for _, piece in split_text(text)) == count_words(text)
