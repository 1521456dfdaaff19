"""The same dialogue with other names, numbers and things, so that only the prompt tells the answer.

Hand-written passages are few; a model learns their values by heart. Exchanged for others of their class, everywhere
alike, the sentences stay and the values have to be read.
"""

import json
import random
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

from understudy.data.lookup.names import NameMaker

__all__ = ["Recaster", "lower_case_words"]

_WORD = re.compile(r"\b(?:([Aa]n?) )?([A-Za-z]+(?:-[A-Za-z]+)*|\d+)\b")
_NAMES = 4  # invented names or large numbers to choose from
_UNITS = ("two", "three", "four", "five", "six", "seven", "eight", "nine")
_TEENS = (
    *("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
    "twenty",
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_ORDINALS = ("third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh", "twelfth")
_CLASSES = (
    *("colour", "metal", "gem", "herb", "flower", "tree", "weekday", "month", "fruit", "vegetable", "bird", "insect"),
    *("fish", "animal", "instrument", "direction", "drink", "food", "crop", "material", "furniture", "container"),
    *("cloth", "weapon", "tool", "building", "role"),
)
_KIN = (
    ("aunt", "mother", "sister", "grandmother", "daughter", "niece"),
    ("uncle", "father", "brother", "grandfather", "son", "nephew"),
)
# Words that are too often something else: a verb, a place, another class.
_AMBIGUOUS_LINES = (
    "back bag bank bark barn bat bear bed bench bow box brown buck can cap case chair chest church clay clerk",
    "club cook cover crane cream cup dark date drill duck fall fence file fire fish fly glass gold guard hall",
    "hammer hat hide home honey horse house ice ink inn iron judge lead leather light march market may milk",
    "mill mint nail oil orange pan paper plain plane porter pot press rail ram ring room rope rose sage salt",
    "sand saw school seal second shop silver spring staff steel stick stone stool swallow swan swift table",
    "tea time tin turkey turn watch water well",
)
_AMBIGUOUS = frozenset(word for line in _AMBIGUOUS_LINES for word in line.split())


class Recaster:
    """Exchanges what a dialogue's answers hang on."""

    def __init__(self, rng: random.Random, common: Collection[str], *, only_names: bool = False) -> None:
        """Reads the word lists of the look-up generator.

        Args:
            rng: the source of chance.
            common: lower-case words that are no names, even where they begin with a capital.
            only_names: leave numbers and things as they are.
        """
        self._only_names = only_names
        folder = Path(__file__).parent / "lookup"
        lists = json.loads((folder / "wordlists.json").read_text(encoding="utf-8"))
        parts = json.loads((folder / "names.json").read_text(encoding="utf-8"))
        self._rng = rng
        self._names = NameMaker(rng, parts)
        self._class_of: dict[str, Sequence[str]] = {}
        coins = [word for word in parts["coin"] if word.isalpha()]
        coins = [coin.removesuffix("s") for coin in coins]
        groups = [coins, *_KIN, *(lists[name] for name in _CLASSES)]
        for group in groups:
            clean = tuple(w for w in group if re.fullmatch(r"[A-Za-z]+[a-rt-z]", w) and w.lower() not in _AMBIGUOUS)
            for word in clean:
                self._class_of.setdefault(word.lower(), clean)
        self._common = {*common, *self._class_of, *_AMBIGUOUS, *_UNITS, *_TEENS, *_TENS, *_ORDINALS}

    def recast(self) -> Callable[[str], str]:
        """Returns a function that exchanges words in texts of one dialogue, each word always for the same other."""
        known: dict[str, str] = {}
        used: set[str] = set()

        def exchange(match: re.Match[str]) -> str:
            article, word = match.group(1), match.group(2)
            low = word.lower()
            if low not in known:
                known[low] = self._other(word, used)
                used.add(known[low].lower())
            new = known[low]
            if new.lower() == low:
                return match.group()
            new = new[0].upper() + new[1:] if word[0].isupper() else new.lower()
            if article is None:
                return new
            return f"{article[0]}{'n' if new[0].lower() in 'aeiou' else ''} {new}"

        return lambda text: _WORD.sub(exchange, text)

    def _other(self, word: str, used: Collection[str]) -> str:
        """Another word of the same class that no word has become yet; the word itself where there is none."""
        free = [other for other in self._class(word) if other.lower() not in used]
        return self._rng.choice(free) if free else word

    def _class(self, word: str) -> Sequence[str]:
        """All that a word may become; nothing where it stays."""
        low = word.lower()
        if self._only_names:
            return () if "-" in low else self._invented(word)
        if word.isdigit():
            return _numbers_like(self._rng, word)
        for group in (_UNITS, _TEENS, _TENS, _ORDINALS):
            if low in group:
                return group
        if "-" in low:
            tens, _, unit = low.partition("-")
            known = tens in _TENS and unit in ("one", *_UNITS)
            return [f"{ten}-{one}" for ten in _TENS for one in ("one", *_UNITS)] if known else ()
        if low in self._class_of:
            return self._class_of[low]
        if low.endswith("s") and low[:-1] in self._class_of:
            return [_plural(other) for other in self._class_of[low[:-1]]]
        return self._invented(word)

    def _invented(self, word: str) -> Sequence[str]:
        """Names, for a word that is one."""
        low = word.lower()
        if (
            word[0].isupper()
            and len(word) > 2
            and low not in self._common
            and low.removesuffix("s") not in self._common
        ):
            return [self._names.first() if self._rng.random() < 0.6 else self._names.surname() for _ in range(_NAMES)]
        return ()


def _numbers_like(rng: random.Random, digits: str) -> Sequence[str]:
    """Numbers of as many digits, from 2 up."""
    if len(digits) > 6 or digits.startswith("0"):
        return ()
    low, high = max(2, 10 ** (len(digits) - 1)), 10 ** len(digits)
    return [str(number) for number in (range(low, high) if high <= 100 else rng.sample(range(low, high), _NAMES))]


def _plural(word: str) -> str:
    if word.endswith(("s", "x", "ch", "sh")):
        return f"{word}es" if not word.endswith("s") else word
    if word.endswith("y") and word[-2] not in "aeiou":
        return f"{word[:-1]}ies"
    return f"{word}s"


def lower_case_words(texts: Iterable[str]) -> Mapping[str, int]:
    """Counts the words that texts write in lower case."""
    out: dict[str, int] = {}
    for text in texts:
        for word in re.findall(r"\b[a-z]+\b", text):
            out[word] = out.get(word, 0) + 1
    return out
