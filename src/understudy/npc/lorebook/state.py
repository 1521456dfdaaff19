"""What a lorebook remembers from turn to turn: which entries stay, rest, or have been in."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

from understudy.errors import SaveError
from understudy.npc.lorebook.entry import LorebookEntry

__all__ = ["LoreState", "Timer"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timer:
    """An entry's timed effects; all in numbers of messages of the conversation.

    Attributes:
        start: when it came in.
        sticky_until: it stays as long as the conversation is no longer.
        cooldown_until: after that it is barred as long as the conversation is no longer.
        fingerprint: of the entry; a changed entry has no timer.
    """

    start: int
    sticky_until: int
    cooldown_until: int
    fingerprint: str

    def is_sticky(self, length: int) -> bool:
        """Whether the entry stays, in a conversation of so many messages."""
        return self.start < length <= self.sticky_until

    def is_cooling(self, length: int) -> bool:
        """Whether the entry is barred."""
        return self.sticky_until < length <= self.cooldown_until


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoreState:
    """Timers and first times, by "book/entry".

    Attributes:
        timers: of the entries with timed effects.
        first_seen: the length of the conversation when an entry came in first, in messages; only of entries that ask.
    """

    timers: Mapping[str, Timer] = dataclasses.field(default_factory=dict)
    first_seen: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def at(self, length: int, entries: Mapping[str, LorebookEntry]) -> "LoreState":
        """What still holds in a conversation of so many messages.

        A timer ends when its time is over, when the entry has changed, and when the conversation is no longer than
        when it started: the turn was taken back.
        """
        timers = {
            key: timer
            for key, timer in self.timers.items()
            if timer.start < length <= max(timer.sticky_until, timer.cooldown_until)
            and (key not in entries or entries[key].fingerprint == timer.fingerprint)
        }
        return LoreState(timers=timers, first_seen={k: n for k, n in self.first_seen.items() if n < length})

    def with_chosen(self, length: int, chosen: Mapping[str, LorebookEntry]) -> "LoreState":
        """The state after these entries came in; a timer that runs is not wound up again."""
        timers, first_seen = dict(self.timers), dict(self.first_seen)
        for key, entry in chosen.items():
            if (entry.sticky or entry.cooldown) and key not in timers:
                timers[key] = Timer(
                    start=length,
                    sticky_until=length + entry.sticky,
                    cooldown_until=length + entry.sticky + entry.cooldown,
                    fingerprint=entry.fingerprint,
                )
            if entry.decorators.keep_activate_after_match or entry.decorators.dont_activate_after_match:
                first_seen.setdefault(key, length)
        return LoreState(timers=timers, first_seen=first_seen)

    def to_json(self) -> dict[str, Any]:
        """For saved games."""
        return {
            "timers": {key: dataclasses.asdict(timer) for key, timer in self.timers.items()},
            "first_seen": dict(self.first_seen),
        }

    @classmethod
    def from_json(cls, document: Any, *, source: str = "The lorebook's state") -> Self:
        """Read what `to_json` made.

        Raises:
            SaveError: it is damaged.
        """
        try:
            timers = {str(key): Timer(**value) for key, value in document["timers"].items()}
            first_seen = dict(document["first_seen"])
            numbers = [n for t in timers.values() for n in (t.start, t.sticky_until, t.cooldown_until)]
            if not all(type(n) is int for n in [*numbers, *first_seen.values()]):
                raise TypeError("a number of messages is none")
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise SaveError(f"{source} is damaged: {error}. Take an older save.") from error
        return cls(timers=timers, first_seen=first_seen)
