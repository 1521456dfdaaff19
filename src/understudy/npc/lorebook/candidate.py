"""An entry on its way into the prompt, and which one of a group gets in."""

import dataclasses
from collections.abc import Iterable, Sequence

from understudy.npc.draw import draw
from understudy.npc.lorebook.entry import Logic, Lorebook, LorebookEntry
from understudy.npc.lorebook.outcome import Reason

__all__ = ["Candidate", "Item", "lose_by_groups"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Item:
    """An entry in its book.

    Attributes:
        key: "book/entry", unique in the scan.
        number: of the book; the first takes precedence.
        name: of the book, unique in the scan.
        place: of the entry in its book.
    """

    key: str
    number: int
    name: str
    place: int
    book: Lorebook
    entry: LorebookEntry


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """An entry that was called up.

    Attributes:
        item: the entry.
        reason: by what.
        detail: the same in words.
        matched_keys: the primary keys that were found.
        num_secondary: how many secondary keys were found.
    """

    item: Item
    reason: Reason
    detail: str
    matched_keys: tuple[str, ...] = ()
    num_secondary: int = 0

    @property
    def rank(self) -> tuple[float, ...]:
        """Smaller is better: what comes before what where tokens run short."""
        entry = self.item.entry
        worth = entry.order if entry.priority is None else entry.priority
        return (
            entry.decorators.ignore_on_max_context,
            self.reason is not Reason.STICKY,
            self.reason is Reason.KEY,
            self.item.number,
            -worth,
            self.item.place,
        )

    @property
    def score(self) -> int:
        """How many keys were found; negative logic does not count."""
        entry = self.item.entry
        num_wanted = len(entry.secondary_keys)
        counts = entry.logic is Logic.AND_ANY or (entry.logic is Logic.AND_ALL and self.num_secondary == num_wanted)
        return len(self.matched_keys) + (self.num_secondary if counts else 0)


def lose_by_groups(
    candidates: Sequence[Candidate], taken: Iterable[str], *, seed: int, length: int, uses_scoring: bool
) -> dict[str, str]:
    """Leave one candidate of each group.

    Those that stay from before win; then, where scoring is on, those with the most keys are left; then the highest
    order wins among those with group priority; then the lot decides, by weight.

    Args:
        candidates: those called up in this scan, best first.
        taken: groups that are in already.
        seed: of the lot.
        length: of the conversation, in messages: each turn has its own lot.
        uses_scoring: for entries that do not say.

    Returns:
        Who lost, by key, and why in words.
    """
    lost: dict[str, str] = {}
    names = dict.fromkeys(name for candidate in candidates for name in candidate.item.entry.groups)
    for name in names:
        group = [c for c in candidates if name in c.item.entry.groups and c.item.key not in lost]
        stays = [c for c in group if c.reason is Reason.STICKY]
        if stays:
            lost |= {c.item.key: f'group "{name}" is held by {_title(stays[0])}' for c in group if c not in stays}
            continue
        if name in taken:
            lost |= {c.item.key: f'group "{name}" is in already' for c in group}
            continue
        group = _scored(group, name, lost, uses_scoring=uses_scoring)
        if len(group) > 1:
            winner, how = _winner(group, name, seed=seed, length=length)
            lost |= {c.item.key: f'group "{name}" went to {_title(winner)} {how}' for c in group if c is not winner}
    return lost


def _scored(group: list[Candidate], name: str, lost: dict[str, str], *, uses_scoring: bool) -> list[Candidate]:
    def is_scored(candidate: Candidate) -> bool:
        own = candidate.item.entry.uses_group_scoring
        return uses_scoring if own is None else own

    best = max((c.score for c in group), default=0)
    losers = [c for c in group if is_scored(c) and c.score < best]
    lost |= {c.item.key: f'group "{name}": {c.score} keys found, another has {best}' for c in losers}
    return [c for c in group if c not in losers]


def _winner(group: list[Candidate], name: str, *, seed: int, length: int) -> tuple[Candidate, str]:
    first = [c for c in group if c.item.entry.has_group_priority]
    if first:
        return max(first, key=lambda c: c.item.entry.order), "by priority"
    luck = draw(seed, "group", name, length) * sum(c.item.entry.group_weight for c in group)
    for candidate in group:
        luck -= candidate.item.entry.group_weight
        if luck < 0:
            return candidate, "by lot"
    return group[0], "by lot"  # all weigh nothing


def _title(candidate: Candidate) -> str:
    return f'"{candidate.item.entry.title or candidate.item.entry.id}"'
