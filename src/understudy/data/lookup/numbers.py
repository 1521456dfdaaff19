"""Numbers, prices, times and other amounts as words and digits."""

from __future__ import annotations

import random
from collections.abc import Sequence

__all__ = ["Amounts", "number_words", "ordinal", "to_number", "whole_number"]

# fmt: off
_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_ORDINALS = (
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh",
    "twelfth",
)
# fmt: on
_PLURALS = {
    "penny": "pence",
    "copper": "coppers",
    "silver": "silver",
    "gold": "gold",
    "yen": "yen",
    "leaf": "leaves",
}  # fmt: skip
_LENGTHS = ("miles", "miles", "leagues", "steps", "metres", "kilometres", "paces", "yards")
_UNITS = ("hour", "day", "week", "month", "year", "night", "minute", "season", "winter", "summer")


def number_words(value: int) -> str:
    """Returns a number from 0 to 9999 in words."""
    if value < 20:
        return _ONES[value]
    if value < 100:
        ten, one = divmod(value, 10)
        return _TENS[ten] + (f"-{_ONES[one]}" if one else "")
    if value < 1000:
        hundred, rest = divmod(value, 100)
        return f"{_ONES[hundred]} hundred" + (f" and {number_words(rest)}" if rest else "")
    thousand, rest = divmod(value, 1000)
    join = " " if rest >= 100 else " and "
    return f"{number_words(thousand)} thousand" + (f"{join}{number_words(rest)}" if rest else "")


_BY_WORD: dict[str, int] = {number_words(n): n for n in (*range(1000), *range(1000, 10000, 100))}


def whole_number(text: str) -> int | None:
    """Reads a text that is a number and nothing else."""
    return int(text) if text.isdigit() else _BY_WORD.get(text.lower())


def to_number(text: str) -> int | None:
    """Reads the number at the start of a text such as "nine coppers" or "14"."""
    low = text.strip().lower()
    if low in _BY_WORD:
        return _BY_WORD[low]
    words = low.split()
    for count in range(len(words), 0, -1):
        head = " ".join(words[:count])
        if head.isdigit():
            return int(head)
        if head in _BY_WORD:
            return _BY_WORD[head]
    return None


def ordinal(value: int) -> str:
    """Returns an ordinal in words, from 1 to 12."""
    return _ORDINALS[value - 1]


class Amounts:
    """Random amounts; all chance comes from the given source."""

    def __init__(self, rng: random.Random, coins: Sequence[str], long_coins: Sequence[str]) -> None:
        """Stores the source of chance and the names of coins.

        Args:
            rng: the source of chance.
            coins: coins in the singular.
            long_coins: coins of several words in the plural.
        """
        self._rng = rng
        self._coins, self._long_coins = coins, long_coins

    def small(self) -> str:
        """A number from 2 to 12 as a word."""
        return _ONES[self._rng.randrange(2, 13)]

    def few(self) -> str:
        """A number from 2 to 20 in digits or words."""
        size = self._rng.randrange(2, 13 if self._rng.random() < 0.7 else 21)
        return str(size) if self._rng.random() < 0.5 else number_words(size)

    def digits(self) -> str:
        """A number from 2 to 999 in digits."""
        return str(self._size())

    def number(self) -> str:
        """A number from 2 to 999 in digits or words."""
        size = self._size()
        return str(size) if self._rng.random() < 0.5 else number_words(size)

    def _size(self) -> int:
        top = self._rng.choice((12, 30, 100, 100, 999))
        return self._rng.randrange(2, top + 1)

    def price(self) -> str:
        """A price such as "nine coppers" or "14 silver"."""
        rng = self._rng
        dice = rng.random()
        size = rng.randrange(2, rng.choice((13, 21, 60, 100, 400)))
        amount = str(size) if rng.random() < 0.4 else number_words(size)
        if dice < 0.12:
            return f"{amount} {rng.choice(self._long_coins)}"
        coin = rng.choice(self._coins)
        if dice < 0.18:
            return f"one {coin}" if coin not in ("silver", "gold") else f"one {coin} coin"
        if dice < 0.22:
            coin = rng.choice(("penny", "crown", "florin", "mark", "shilling", "ducat"))
            return f"half a {coin}"
        return f"{amount} {self._plural(coin)}"

    @staticmethod
    def _plural(coin: str) -> str:
        if coin.endswith("y"):
            return _PLURALS.get(coin, f"{coin[:-1]}ies")
        return _PLURALS.get(coin, f"{coin}s")

    def year(self) -> str:
        """A year as digits."""
        rng = self._rng
        return str(rng.randrange(2, 999) if rng.random() < 0.4 else rng.randrange(1000, 2400))

    def clock(self) -> str:
        """A time of day."""
        rng = self._rng
        hour = _ONES[rng.randrange(1, 13)]
        dice = rng.random()
        if dice < 0.2:
            return f"the {ordinal(rng.randrange(1, 13))} bell"
        if dice < 0.32:
            return rng.choice(("noon", "midnight", "dawn", "sunset", "dusk", "sunrise", "first light", "nightfall"))
        if dice < 0.5:
            return f"{hour} o'clock"
        if dice < 0.62:
            return f"half past {hour}"
        if dice < 0.72:
            return f"{hour} in the {rng.choice(('morning', 'evening', 'afternoon'))}"
        if dice < 0.82:
            return f"quarter {rng.choice(('to', 'past'))} {hour}"
        if dice < 0.92:
            return f"{rng.randrange(0, 24)}:{rng.choice(('00', '15', '30', '45', '10', '20', '50'))}"
        return f"{rng.choice(('ten', 'twenty', 'five'))} {rng.choice(('to', 'past'))} {hour}"

    def duration(self) -> str:
        """A length of time such as "three weeks"."""
        rng = self._rng
        unit = rng.choice(_UNITS)
        size = rng.randrange(2, 13) if rng.random() < 0.75 else rng.randrange(13, 61)
        amount = str(size) if rng.random() < 0.2 else number_words(size)
        if rng.random() < 0.06:
            return f"half {'an' if unit == 'hour' else 'a'} {unit}"
        return f"{amount} {unit}s"

    def people(self) -> str:
        """A count of people such as "forty people"."""
        rng = self._rng
        size = rng.randrange(2, rng.choice((13, 40, 100, 400)))
        amount = str(size) if rng.random() < 0.35 else number_words(size)
        return f"{amount} {rng.choice(('people', 'people', 'people', 'souls', 'men and women', 'heads'))}"

    def distance(self) -> str:
        """A distance such as "two miles"."""
        rng = self._rng
        size = rng.randrange(2, 13) if rng.random() < 0.7 else rng.randrange(13, 90)
        amount = str(size) if rng.random() < 0.25 else number_words(size)
        return f"{amount} {rng.choice(_LENGTHS)}"

    def age(self) -> str:
        """An age such as "fifty-three"."""
        rng = self._rng
        size = rng.randrange(9, 95)
        return str(size) if rng.random() < 0.2 else number_words(size)
