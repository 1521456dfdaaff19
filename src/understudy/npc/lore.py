"""Which passages of lore belong to what was just said."""

import dataclasses
import math
import re
from collections.abc import Iterable, Sequence

from understudy.npc.card import Card
from understudy.npc.world import LoreEntry, World

__all__ = ["Selected", "select_lore"]

_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")
_TITLE_SHARE = 0.5  # a word of the title counts half of a key
_HISTORY_SHARE = 0.3  # each step back in the history counts this much of the step after it
_STOP_WORDS = (
    "a an and are as at be but by did do does for from had has have he her him his how i if in into is it its me my no "
    "not of on or our out over she so some than that the their them then there they this to up us was we were what "
    "when where which who whom whose why will with you your"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selected:
    """A passage and why it was taken.

    Attributes:
        entry: the passage.
        score: sum of its matches' weights; larger is better.
        matched_keys: keys and words of the title that occur, as their author wrote them.
    """

    entry: LoreEntry
    score: float
    matched_keys: tuple[str, ...]


def select_lore(
    world: World | None, card: Card, text: str, *, history: Sequence[str] = (), limit: int = 3
) -> list[Selected]:
    """Choose passages that the character knows and the words call up.

    A key matches as whole words, in any case, singular or plural. It weighs `log(1 + N / n)`: N passages in the
    world, n of them with this key.

    Args:
        world: where the lore is.
        card: whose knowledge counts; one without `knowledge` knows all.
        text: what was just said.
        history: what was said before, oldest first; it counts less.
        limit: most passages.
    """
    if world is None:
        return []
    terms = {entry.id: _terms(entry) for entry in world.lore}
    num_entries_with: dict[tuple[str, ...], int] = {}
    for entry_terms in terms.values():
        for term in entry_terms:
            num_entries_with[term] = num_entries_with.get(term, 0) + 1
    said = [(_HISTORY_SHARE**age, _sequences(line)) for age, line in enumerate([text, *reversed(history)])]
    known = set(card.knowledge)
    found = []
    for entry in world.lore:
        if known and entry.id not in known:
            continue
        score, matched = 0.0, []
        for term, (label, share) in terms[entry.id].items():
            best = max((weight for weight, sequences in said if term in sequences), default=0.0)
            if best:
                score += best * share * math.log(1 + len(world.lore) / num_entries_with[term])
                matched.append(label)
        if matched:
            found.append(Selected(entry=entry, score=score, matched_keys=tuple(matched)))
    return sorted(found, key=lambda one: -one.score)[: max(0, limit)]


def _terms(entry: LoreEntry) -> dict[tuple[str, ...], tuple[str, float]]:
    """What calls an entry up: its words, how the author wrote them, and their share."""
    terms = {_words(key): (key, 1.0) for key in entry.keys}
    stop_words = _STOP_WORDS.split()
    for word in _WORD.findall(entry.title):
        if word.casefold() not in stop_words:
            terms.setdefault(_words(word), (word, _TITLE_SHARE))
    terms.pop((), None)
    return terms


def _sequences(line: str) -> set[tuple[str, ...]]:
    """All runs of up to five words."""
    words = _words(line)
    return {words[n : n + length] for length in range(1, 6) for n in range(len(words) - length + 1)}


def _words(text: str) -> tuple[str, ...]:
    return tuple(_singulars(word.casefold() for word in _WORD.findall(text)))


def _singulars(words: Iterable[str]) -> Iterable[str]:
    """Words without possessive and plural endings; the same rule for keys and lines, so it need not be right."""
    for found in words:
        word = re.sub(r"['\u2019]s?$", "", found)
        if len(word) > 4 and word.endswith("ies"):
            yield word[:-3] + "y"
        elif len(word) > 4 and word.endswith(("sses", "shes", "ches", "xes")):
            yield word[:-2]
        elif len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
            yield word[:-1]
        else:
            yield word
