"""What a line of a character must say and may not say: the `checks` of the evaluation world."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from understudy.errors import DataError
from understudy.evaluation.words import contains_words, spoken_words

__all__ = ["LineCheck", "Verdict", "admits_ignorance", "judge"]

_DONT_KNOW = "don't know"
_MORE_DONT_KNOWS = (
    "no answer for", "don't have that answer", "wouldn't know", "news to me", "ask someone else", "wish i knew",
    "if i knew", "beats me", "know nothing", "only be guessing", "no one ever said", "nobody ever said", "who knows",
    "never learned", "never learnt", "mystery to me", "no clue", "can't answer", "cannot answer", "not the one to ask",
    "faintest idea", "not that i know", "not that i ever heard", "you've got me there", "not heard", "can't be sure",
    "cannot be sure", "won't guess", "won't make something up", "no word of", "not a thing i know",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class LineCheck:
    """How one line is judged.

    Attributes:
        facts: groups, of each of which one alternative must occur.
        admissions: groups of ways to say that one does not know, of each of which one must occur.
        forbidden: what may not occur.
    """

    facts: tuple[tuple[str, ...], ...] = ()
    admissions: tuple[tuple[str, ...], ...] = ()
    forbidden: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, entry: Any, *, source: str) -> "LineCheck":
        """Read an entry of `checks`; a group with "don't know" among its alternatives is an admission.

        Raises:
            DataError: it has another form.
        """
        groups = entry.get("must_include_any") if isinstance(entry, Mapping) else None
        forbidden = entry.get("must_not_include") if isinstance(entry, Mapping) else None
        if not isinstance(groups, list) or not all(map(_are_texts, groups)) or not _are_texts(forbidden):
            raise DataError(
                f"{source}: a check needs must_include_any, a list of lists of texts, and must_not_include, a list "
                f"of texts; got {entry!r}. See worlds/README.md."
            )
        return cls(
            facts=tuple(tuple(group) for group in groups if _DONT_KNOW not in group),
            admissions=tuple(tuple(group) for group in groups if _DONT_KNOW in group),
            forbidden=tuple(forbidden or ()),
        )

    @property
    def is_empty(self) -> bool:
        """Nothing is judged."""
        return not (self.facts or self.admissions or self.forbidden)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """A line's judgement.

    Attributes:
        missing: groups of facts of which nothing occurs.
        unadmitted: groups of admissions of which nothing occurs.
        said: what occurs and may not.
        is_silent: no word was said, which passes no check.
    """

    missing: tuple[tuple[str, ...], ...]
    unadmitted: tuple[tuple[str, ...], ...]
    said: tuple[str, ...]
    is_silent: bool

    @property
    def passed(self) -> bool:
        """All checks hold."""
        return not (self.missing or self.unadmitted or self.said or self.is_silent)


def judge(text: str, check: LineCheck) -> Verdict:
    """Judge what a character said: whole words, lower case, numbers as words or digits."""
    words = spoken_words(text)

    def occurs(phrase: str) -> bool:
        return contains_words(words, spoken_words(phrase))

    return Verdict(
        missing=tuple(group for group in check.facts if not any(map(occurs, group))),
        unadmitted=tuple(group for group in check.admissions if not any(map(occurs, group))),
        said=tuple(phrase for phrase in check.forbidden if occurs(phrase)),
        is_silent=not any(word[0].isalnum() for word in words),
    )


def admits_ignorance(text: str, group: tuple[str, ...]) -> bool:
    """Whether a line says "I don't know" by the group's own phrases or by a longer list of this project's.

    The world's list is short, and a model may say it in other words; both figures are reported.
    """
    words = spoken_words(text)
    return any(contains_words(words, spoken_words(phrase)) for phrase in (*group, *_MORE_DONT_KNOWS))


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
