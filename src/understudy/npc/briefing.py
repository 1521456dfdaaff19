"""What a character is shown for a line, within a token budget, and a reason for all that went in or stayed out."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from understudy.errors import ContextLengthError
from understudy.npc.lorebook import LoreScan
from understudy.prompt import Conversation, Message

__all__ = ["Briefing", "Passage", "fit_briefing"]

_SUMMARY_SHARE = 16  # of the prompt, at most
_SUMMARY_FRAME = 8  # tokens around a context, at most
Source = Literal["memory", "summary", "lorebook", "world", "lore"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Passage:
    """A text for the model's `<context>`, or one that stayed out.

    Attributes:
        source: memory, summary (of what was said too long ago), lorebook, world (entries of its folder) or lore (a
            database).
        id: for citation.
        title: for people.
        text: what the model is shown.
        reason: what called it up, or why it stayed out.
        is_kept: the model was shown it.
    """

    source: Source
    id: str
    title: str
    text: str
    reason: str
    is_kept: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Briefing:
    """What the model was shown.

    Attributes:
        conversation: all of it.
        passages: those in its contexts, in order; then those that stayed out.
        num_prompt_tokens: length of the prompt.
        max_prompt_tokens: its budget.
        num_exchanges: turns of the player that it remembers, this one apart.
        num_forgotten: older ones that found no room.
        lore_scan: of the lorebooks, if there are any.
        notes: what had to be done without, e.g. an embedder that did not answer.
    """

    conversation: Conversation
    passages: tuple[Passage, ...]
    num_prompt_tokens: int
    max_prompt_tokens: int
    num_exchanges: int
    num_forgotten: int
    lore_scan: LoreScan | None = None
    notes: tuple[str, ...] = ()

    def explain(self) -> str:
        """Lines for people: the budget, and each passage with its reason."""
        spent = f"{self.num_prompt_tokens} of {self.max_prompt_tokens} tokens"
        lost = f", {self.num_forgotten} older ones left out" if self.num_forgotten else ""
        lines = [f"{spent}; {self.num_exchanges} exchanges before this one{lost}"]
        for passage in self.passages:
            kept = "kept" if passage.is_kept else "dropped"
            lines.append(f"{passage.source} {passage.title or passage.id}: {kept}, {passage.reason}")
        return "\n".join([*lines, *self.notes])


def fit_briefing(
    *,
    system: Message,
    line: str,
    history: Sequence[Message],
    turn: Sequence[Message],
    tools: Sequence[Mapping[str, Any]],
    passages: Sequence[Passage],
    max_prompt_tokens: int,
    count: Callable[[Conversation], int],
    lore_scan: LoreScan | None = None,
    summarise: Callable[[Sequence[Message], int], str] | None = None,
    notes: tuple[str, ...] = (),
) -> Briefing:
    """Fit a line into the budget: the oldest exchanges go first, then the passages from the last one on.

    Args:
        system: who the character is; never left out.
        line: what the player says now.
        history: turns before, well-formed.
        turn: what the character said and called since the line, and the results.
        tools: schemas of functions to offer.
        passages: the most important first; those that stay out already may be among them.
        max_prompt_tokens: the budget, in tokens.
        count: length of a conversation's prompt, in tokens.
        lore_scan: passed on.
        summarise: exchanges that find no room, within so many tokens; "" for nothing.
        notes: passed on.

    Raises:
        ContextLengthError: the line with the system prompt alone is too long.
    """
    draft = _Draft(system, line, history, turn, tools, passages, count)
    num_exchanges, num_tokens = len(draft.starts), draft.length(len(draft.starts))
    if num_tokens > max_prompt_tokens:
        draft.drop_passages(max_prompt_tokens)
        reserved = max_prompt_tokens // _SUMMARY_SHARE if summarise else 0
        room = max_prompt_tokens - reserved if reserved > _SUMMARY_FRAME else max_prompt_tokens
        num_exchanges = _most(len(draft.starts), lambda number: draft.length(number) <= room)
        if summarise and reserved > _SUMMARY_FRAME:
            text = summarise(draft.forgotten(num_exchanges), reserved - _SUMMARY_FRAME)
            draft.add_summary(text, num_exchanges, max_prompt_tokens)
        num_tokens = draft.length(num_exchanges)
    return Briefing(
        conversation=draft.build(num_exchanges),
        passages=(*draft.kept, *draft.dropped),
        num_prompt_tokens=num_tokens,
        max_prompt_tokens=max_prompt_tokens,
        num_exchanges=num_exchanges,
        num_forgotten=len(draft.starts) - num_exchanges,
        lore_scan=lore_scan,
        notes=notes,
    )


class _Draft:
    """A prompt in the making."""

    def __init__(
        self,
        system: Message,
        line: str,
        history: Sequence[Message],
        turn: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        passages: Sequence[Passage],
        count: Callable[[Conversation], int],
    ) -> None:
        self.kept = [passage for passage in passages if passage.is_kept]
        self.dropped = [passage for passage in passages if not passage.is_kept]
        self.starts = [number for number, message in enumerate(history) if message.role == "user"]
        self._system, self._line, self._turn = system, Message(role="user", content=line), turn
        self._history, self._tools, self._count = history, tuple(tools), count

    def build(self, num_exchanges: int) -> Conversation:
        """With the last so many exchanges."""
        turns = self._history[self.starts[-num_exchanges] :] if num_exchanges else []
        return Conversation(
            messages=(self._system, *turns, self._line, *self._turn),
            tools=self._tools,
            contexts=tuple(passage.text for passage in self.kept),
        )

    def length(self, num_exchanges: int) -> int:
        return self._count(self.build(num_exchanges))

    def forgotten(self, num_exchanges: int) -> Sequence[Message]:
        """What was said before those."""
        return self._history[: self.starts[-num_exchanges]] if num_exchanges else self._history

    def drop_passages(self, limit: int) -> None:
        """Until the line alone fits; the last go first."""
        while (length := self.length(0)) > limit:
            if not self.kept:
                raise ContextLengthError(length, limit)
            lost = self.kept.pop()
            self.dropped.insert(0, dataclasses.replace(lost, is_kept=False, reason=f"no room, though {lost.reason}"))

    def add_summary(self, text: str, num_exchanges: int, limit: int) -> None:
        """If there is one, and it fits."""
        if text:
            reason = f"{len(self.starts) - num_exchanges} exchanges found no room"
            self.kept.append(Passage(source="summary", id="summary", title="summary", text=text, reason=reason))
            if self.length(num_exchanges) > limit:
                self.kept.pop()


def _most(limit: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to a limit that fits; 0 does."""
    fewest, most = 0, limit
    while fewest < most:
        middle = (fewest + most + 1) // 2
        if fits(middle):
            fewest = middle
        else:
            most = middle - 1
    return fewest
