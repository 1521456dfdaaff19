"""What a player typed, as words to look for."""

import unicodedata

__all__ = ["match_expression", "query_words"]

_MAX_CHARACTERS = 10_000
_MAX_WORDS = 64
_MAX_LETTERS = 40
_STOP_WORDS = (
    "a about again all also am an and any anybody anyone anything are as at be been but by can could did do does "
    "doing don done else ever every for from get give go going got had has have he hello her here hey hi him his how i "
    "if in into is isn it its just know ll let like ll m may me might more most much must my no not now of oh ok okay "
    "on or our out over please re s say shall she should so some somebody someone something such t tell than thank "
    "thanks that the their them then there these they thing things think this those to too up us ve very want was we "
    "were what whats when where which who whom whose why will with would yes you your yours"
)


def query_words(text: str) -> list[str]:
    """The words of a line that carry its meaning, each once; of more than 64, the last.

    Signs never come through, so that no line means anything to the database's query language.
    """
    folded = unicodedata.normalize("NFC", text[-_MAX_CHARACTERS:]).casefold()
    spaced = "".join(c if c.isalnum() or unicodedata.category(c)[0] == "M" else " " for c in folded)
    stop_words = _STOP_WORDS.split()
    found = dict.fromkeys(word[:_MAX_LETTERS] for word in reversed(spaced.split()) if word not in stop_words)
    return list(found)[:_MAX_WORDS]


def match_expression(words: list[str]) -> str:
    """An FTS5 expression: any of the words."""
    return " OR ".join(f'"{word}"' for word in words)
