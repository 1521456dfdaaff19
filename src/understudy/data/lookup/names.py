"""Random names of people, places, shops and other things."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from typing import TypeVar, cast

__all__ = ["NameMaker"]

T = TypeVar("T")

_FORE = ("Upper", "Lower", "New", "Old", "North", "Great", "Little", "Port", "Saint")
_SKIP_MIDDLE = (0.5, 0.5, 0.4, 0.0, 0.5)  # per style: how often a name has no middle
_UGLY = re.compile(
    r"([aiu])\1|[bcdfghjklmnpqrstvwxz]{5}|anus|shit|cum|cunt|dick|cock|fuk|fuck|tit|nig|neg|rape|"
    r"slut|poo|kak|puta|porn|penis|sex|homo|nazi|hitl|fag|peni"
)


def _joins(start: str, end: str) -> bool:
    """Whether start and end can stand together without a middle."""
    if len(start) + len(end) < 4:
        return False
    open_start, open_end = start[-1] in "aeiouy", end[0] in "aeiouy"
    return open_start != open_end or (len(end) > 1 and not open_end and end[1] in "aeiouy")


class NameMaker:
    """Makes random names; all chance comes from the given source."""

    def __init__(self, rng: random.Random, lists: Mapping[str, object]) -> None:
        """Takes the parts that names are made of.

        Args:
            rng: the source of chance.
            lists: the content of names.json; "syllables" holds styles, each of which has starts,
                middles and endings.

        Raises:
            KeyError: if a list is missing.
        """
        self._rng = rng
        self._styles = cast(list[list[list[str]]], lists["syllables"])
        given, left, right, adjectives, nouns, titles = (
            cast(list[str], lists[key])
            for key in ("given", "surname_left", "surname_right", "adjective", "noun", "title")
        )
        self._given, self._left, self._right = given, left, right
        self._adjectives, self._nouns, self._titles = adjectives, nouns, titles
        self._place_right, self._places, self._stations = (
            cast(list[str], lists[key]) for key in ("place_right", "place", "station")
        )

    def choice(self, items: Sequence[T]) -> T:
        """Picks one of the items."""
        return items[int(self._rng.random() * len(items))]

    def syllabic(self) -> str:
        """A made-up name of one to three syllables."""
        pick = self._rng.random
        while True:
            at = int(pick() * len(self._styles))
            starts, middles, ends = self._styles[at]
            start = starts[int(pick() * len(starts))]
            end = ends[int(pick() * len(ends))]
            middle = middles[int(pick() * len(middles))]
            if pick() < _SKIP_MIDDLE[at] and _joins(start, end):
                middle = ""
            name = (start + middle + end).lower()
            if not _UGLY.search(name):
                return name[0].upper() + name[1:]

    def first(self) -> str:
        """A first name, often made up, sometimes a common one."""
        if self._rng.random() < 0.3:
            return self._rng.choice(self._given)
        return self.syllabic()

    def surname(self) -> str:
        """A surname: a compound such as "Marlpit" or a made-up one."""
        rng = self._rng
        if rng.random() < 0.55:
            return self._compound(self._right)
        return self.syllabic()

    def _compound(self, rights: list[str]) -> str:
        rng = self._rng
        left = rng.choice(self._left)
        right = rng.choice(rights)
        while right == left.lower() or right[0] == left[-1]:
            right = rng.choice(rights)
        return left + right

    def parts(self) -> tuple[str, str]:
        """A character's name and the first name in it."""
        rng = self._rng
        first = self.first()
        dice = rng.random()
        if dice < 0.6:
            return f"{first} {self.surname()}", first
        if dice < 0.85:
            return first, first
        if dice < 0.95:
            return f"{rng.choice(self._titles)} {first}", first
        return f"{rng.choice(('Captain', 'Doctor', 'Master'))} {first} {self.surname()}", first

    def person(self) -> str:
        """A full name of somebody."""
        return self.parts()[0]

    def place(self) -> str:
        """A town or region."""
        rng = self._rng
        dice = rng.random()
        if dice < 0.3:
            return self._compound(self._place_right)
        if dice < 0.5:
            return self.syllabic() + rng.choice(("", "", "holt", "by", "stad", "mark", "heim", "burg", "ia"))
        if dice < 0.7:
            stem = self.syllabic()
            return stem + (rng.choice(self._place_right) if len(stem) < 7 else "")
        if dice < 0.8:
            stem = rng.choice((self.surname(), rng.choice(self._nouns), self.syllabic()))
            return f"{stem} {rng.choice(self._stations)}"
        if dice < 0.9:
            return f"{rng.choice(_FORE)} {self.syllabic()}"
        return rng.choice(self._places)

    def shop(self) -> str:
        """An inn or shop such as "the Copper Heron"."""
        rng = self._rng
        dice = rng.random()
        if dice < 0.7:
            return f"the {rng.choice(self._adjectives)} {rng.choice(self._nouns)}"
        if dice < 0.9:
            one, two = rng.sample(self._nouns, 2)
            return f"the {one} and {two}"
        return f"the {rng.choice(self._nouns)}"

    def ship(self) -> str:
        """A ship's name such as "the Salty Otter"."""
        rng = self._rng
        if rng.random() < 0.4:
            return f"the {self.syllabic()}"
        return self.shop()
