"""What became of each entry of a lorebook, and why."""

import dataclasses
import enum

from understudy.npc.lorebook.entry import LorebookEntry, Position
from understudy.npc.lorebook.state import LoreState

__all__ = ["EntryOutcome", "LoreScan", "Reason"]


class Reason(enum.StrEnum):
    """Why an entry is in the prompt, or is not."""

    ACTIVATE = "activate"
    CONSTANT = "constant"
    KEPT_AFTER_MATCH = "kept after match"
    KEY = "key"
    STICKY = "sticky"

    BUDGET = "budget"
    CONTEXT_FULL = "context full"
    COOLDOWN = "cooldown"
    DELAY = "delay"
    DISABLED = "disabled"
    DONT_ACTIVATE = "dont activate"
    EMPTY = "empty"
    EXCLUDED_KEY = "excluded key"
    GREETING = "greeting"
    GROUP = "group"
    NO_ADDITIONAL_KEY = "no additional key"
    NO_KEY = "no key"
    NOT_THIS_TURN = "not this turn"
    ONCE = "once"
    OUTLET = "outlet"
    PROBABILITY = "probability"
    RECURSION = "recursion"
    SECONDARY_KEY = "secondary key"
    TOO_EARLY = "too early"
    USER_ICON = "user icon"

    @property
    def is_kept(self) -> bool:
        """Whether the entry is in."""
        return self in (Reason.ACTIVATE, Reason.CONSTANT, Reason.KEPT_AFTER_MATCH, Reason.KEY, Reason.STICKY)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EntryOutcome:
    """An entry and what became of it.

    Attributes:
        book: the name of its book, unique in the scan.
        entry: the entry.
        reason: why it is in, or not.
        detail: the same in words, e.g. 'key "well"'.
        matched_keys: the keys that were found, as their author wrote them.
        scan: 0: called up by messages; n: by entries of scan n - 1.
        roll: the draw against its probability, in percent; None: it was not drawn.
        tokens: what it costs; 0 where it was never about to be in.
        text: what the model is shown; empty where it is not in.
        position: where it goes.
        depth: how many messages stand after it, for `AT_DEPTH`.
    """

    book: str
    entry: LorebookEntry
    reason: Reason
    detail: str
    matched_keys: tuple[str, ...] = ()
    scan: int = 0
    roll: float | None = None
    tokens: int = 0
    text: str = ""
    position: Position = Position.AFTER_CHAR
    depth: int = 0

    @property
    def is_kept(self) -> bool:
        """Whether the entry is in."""
        return self.reason.is_kept

    def explain(self) -> str:
        """One line: what it is, kept or dropped because, and what it costs."""
        name = self.entry.title or self.entry.id
        cost = f", {self.tokens} tokens" if self.tokens else ""
        roll = f", roll {self.roll:.1f} of {self.entry.probability:g}" if self.roll is not None else ""
        return f"{name}: {'kept' if self.is_kept else 'dropped'}, {self.detail}{roll}{cost}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoreScan:
    """What a scan found.

    Attributes:
        chosen: the entries that are in, in the order of the prompt.
        outcomes: all entries, book after book.
        state: what to hand to the next scan, once the turn is remembered.
        disabled_prompts: prompts of the card that an entry leaves out: system_prompt, post_history_instructions.
    """

    chosen: tuple[EntryOutcome, ...]
    outcomes: tuple[EntryOutcome, ...]
    state: LoreState
    disabled_prompts: frozenset[str] = frozenset()

    @property
    def tokens(self) -> int:
        """What the chosen entries cost."""
        return sum(outcome.tokens for outcome in self.chosen)

    def texts(self, *positions: Position) -> tuple[str, ...]:
        """The texts at these positions, in the order of the prompt; without positions: all."""
        return tuple(outcome.text for outcome in self.chosen if not positions or outcome.position in positions)
