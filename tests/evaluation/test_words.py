import pytest

from understudy.evaluation.words import contains_words, spoken_words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Twenty-five", ["25"]),
        ("twenty five", ["25"]),
        ("Twenty, five", ["20", ",", "5"]),
        ("one or two", ["1", "or", "2"]),
        ("a hundred and seventy men", ["170", "men"]),
        ("six hundred and forty", ["640"]),
        ("two thousand and twelve", ["2012"]),
        ("ninety-nine thousand two hundred and one", ["99201"]),
        ("three thousand and a dog", ["3000", "and", "a", "dog"]),
        ("a hundred and a half", ["100", "and", "a", "half"]),
        ("18,400 or 3,000", ["18400", "or", "3000"]),
        ("1,2 and 2.5", ["1", ",", "2", "and", "2.5"]),
        ("the nineteenth, the 19th", ["the", "19th", ",", "the", "19th"]),
        ("Tanner\u2019s can't", ["tanner's", "can't"]),
        ("zero", ["0"]),
        ("a can", ["a", "can"]),
        ("", []),
    ],
)
def test_words_and_numbers(text: str, words: list[str]) -> None:
    assert spoken_words(text) == words


@pytest.mark.parametrize(
    ("text", "phrase", "occurs"),
    [
        ("It costs 25 herons.", "twenty-five", True),
        ("It costs twenty-five herons.", "twenty", False),
        ("It costs 2,000 herons.", "two", False),
        ("I can't say.", "can", False),
        ("A can of gas.", "can", True),
        ("On Tanner's Float.", "tanner", True),
        ("On Tanner Float.", "tanner's", False),
        ("Two ladders.", "ladder", False),
        ("A green rag.", "Green Rag", True),
        ("A green, torn rag.", "green rag", False),
        ("print(sorted(x))", "sorted(", True),
        ("sorted, all of them", "sorted(", False),
        ("anything", "", False),
    ],
)
def test_whole_phrases(text: str, phrase: str, occurs: bool) -> None:
    assert contains_words(spoken_words(text), spoken_words(phrase)) is occurs
