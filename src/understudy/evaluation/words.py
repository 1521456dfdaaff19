"""Text as words that can be compared: lower case, numbers as digits however they were written."""

import re
from collections.abc import Sequence

__all__ = ["contains_words", "spoken_words"]

_TOKEN = re.compile(r"\d+(?:,\d{3})+(?!\d)|\d+(?:\.\d+)?(?:st|[nr]d|th)\b|\d+(?:\.\d+)?|\w+(?:'\w+)*|[^\w\s]")
_THOUSANDS = re.compile(r"\d+(?:,\d{3})+")
_SMALL_WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TEN_WORDS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SMALL = {word: value for value, word in enumerate(_SMALL_WORDS)}
_TENS = {word: 10 * value for value, word in enumerate(_TEN_WORDS, start=2)}
_LARGE = {"thousand": 1_000, "million": 1_000_000}
_ORDINALS = {
    "first": "1st",
    "second": "2nd",
    "third": "3rd",
    "fifth": "5th",
    "eighth": "8th",
    "ninth": "9th",
    "twelfth": "12th",
    "twentieth": "20th",
    "thirtieth": "30th",
    "fortieth": "40th",
    "fiftieth": "50th",
    **{f"{word}th": f"{value}th" for word, value in _SMALL.items() if value in (4, 6, 7, 10, 11) or value > 12},
}


def spoken_words(text: str) -> list[str]:
    """Words, numbers and punctuation marks of a text, in lower case.

    "Twenty-five", "twenty five" and "25" are one word "25"; "a hundred and seventy" is "170"; "3,000" is "3000";
    "nineteenth" is "19th". Curly apostrophes are straight. An apostrophe inside of a word belongs to it.
    """
    plain = text.lower().replace("\u2019", "'").replace("\u2018", "'")
    tokens = [t.replace(",", "") if _THOUSANDS.fullmatch(t) else t for t in _TOKEN.findall(plain)]
    words: list[str] = []
    at = 0
    while at < len(tokens):
        value, length = _number(tokens, at)
        if length:
            words.append(str(value))
            at += length
        else:
            words.append(_ORDINALS.get(tokens[at], tokens[at]))
            at += 1
    return words


def contains_words(words: Sequence[str], phrase: Sequence[str]) -> bool:
    """Whether a phrase occurs as whole words in a row; a possessive counts as its word ("Tanner's" as "Tanner").

    Args:
        words: `spoken_words` of a text.
        phrase: `spoken_words` of what is looked for; an empty one never occurs.
    """
    size = len(phrase)
    return bool(size) and any(
        all(word in (part, f"{part}'s") for word, part in zip(words[start : start + size], phrase, strict=True))
        for start in range(len(words) - size + 1)
    )


def _number(tokens: Sequence[str], start: int) -> tuple[int, int]:
    """Value of the number in words that begins here, and how many tokens it takes; 0 of them if there is none."""
    total, at, value = 0, start, 0
    value, length = _below_thousand(tokens, at)
    while length:
        at += length
        scale = _LARGE.get(tokens[at]) if at < len(tokens) else None
        if scale is None:
            return total + value, at - start
        total, at = total + value * scale, at + 1
        skip = 1 if at < len(tokens) and tokens[at] == "and" else 0
        value, length = _below_thousand(tokens, at + skip)
        at += skip if length else 0
        if not length:
            return total, at - start
    return 0, 0


def _below_thousand(tokens: Sequence[str], at: int) -> tuple[int, int]:
    """A number in words up to 999, as `_number`."""
    is_article = at + 1 < len(tokens) and tokens[at] in ("a", "an") and tokens[at + 1] in ("hundred", *_LARGE)
    value, length = (1, 1) if is_article else _below_hundred(tokens, at)
    if not length or at + length >= len(tokens) or tokens[at + length] != "hundred":
        return value, length
    value, length = 100 * value, length + 1
    skip = 1 if at + length < len(tokens) and tokens[at + length] == "and" else 0
    rest, more = _below_hundred(tokens, at + length + skip)
    return (value + rest, length + skip + more) if more else (value, length)


def _below_hundred(tokens: Sequence[str], at: int) -> tuple[int, int]:
    """A number in words up to 99, as `_number`; "twenty-five" is three tokens."""
    if at >= len(tokens):
        return 0, 0
    word = tokens[at]
    if word in _SMALL:
        return _SMALL[word], 1
    if word not in _TENS:
        return 0, 0
    for skip in (1, 2):
        if at + skip < len(tokens) and (skip == 1 or tokens[at + 1] == "-"):
            unit = _SMALL.get(tokens[at + skip], 0)
            if 1 <= unit <= 9:
                return _TENS[word] + unit, skip + 1
    return _TENS[word], 1
