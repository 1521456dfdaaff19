"""What a character is shown for a line, within a token budget, and a reason for all that went in or stayed out."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from understudy.errors import ContextLengthError
from understudy.npc.lorebook import LoreScan
from understudy.prompt import Conversation, Message

__all__ = ["Briefing", "Passage", "fit_briefing"]

Source = Literal["memory", "lorebook", "world", "lore"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Passage:
    """A text for the model's `<context>`, or one that stayed out.

    Attributes:
        source: memory, lorebook, world (the entries of a world folder) or lore (a database).
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
    """

    conversation: Conversation
    passages: tuple[Passage, ...]
    num_prompt_tokens: int
    max_prompt_tokens: int
    num_exchanges: int
    num_forgotten: int
    lore_scan: LoreScan | None = None

    def explain(self) -> str:
        """Lines for people: the budget, and each passage with its reason."""
        spent = f"{self.num_prompt_tokens} of {self.max_prompt_tokens} tokens"
        lost = f", {self.num_forgotten} older ones left out" if self.num_forgotten else ""
        lines = [f"{spent}; {self.num_exchanges} exchanges before this one{lost}"]
        for passage in self.passages:
            kept = "kept" if passage.is_kept else "dropped"
            lines.append(f"{passage.source} {passage.title or passage.id}: {kept}, {passage.reason}")
        return "\n".join(lines)


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

    Raises:
        ContextLengthError: the line with the system prompt alone is too long.
    """
    starts = [number for number, message in enumerate(history) if message.role == "user"]
    kept = [passage for passage in passages if passage.is_kept]
    dropped = [passage for passage in passages if not passage.is_kept]

    def build(num_exchanges: int) -> Conversation:
        turns = history[starts[-num_exchanges] :] if num_exchanges else []
        return Conversation(
            messages=(system, *turns, Message(role="user", content=line), *turn),
            tools=tuple(tools),
            contexts=tuple(passage.text for passage in kept),
        )

    num_exchanges = len(starts)
    num_tokens = count(build(num_exchanges))
    if num_tokens > max_prompt_tokens:
        while (length := count(build(0))) > max_prompt_tokens:
            if not kept:
                raise ContextLengthError(length, max_prompt_tokens)
            lost = kept.pop()
            dropped.insert(0, dataclasses.replace(lost, is_kept=False, reason=f"no room, though {lost.reason}"))
        num_exchanges = _most(num_exchanges - 1, lambda number: count(build(number)) <= max_prompt_tokens)
        num_tokens = count(build(num_exchanges))
    return Briefing(
        conversation=build(num_exchanges),
        passages=(*kept, *dropped),
        num_prompt_tokens=num_tokens,
        max_prompt_tokens=max_prompt_tokens,
        num_exchanges=num_exchanges,
        num_forgotten=len(starts) - num_exchanges,
        lore_scan=lore_scan,
    )


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
