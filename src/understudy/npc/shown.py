"""What the model is shown for a line: what memory, lorebooks, world and database hold on it, each with its reason."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from understudy.npc.briefing import Passage
from understudy.npc.lore import Selected
from understudy.npc.lorebook import LoreScan, ScanSettings, scan_lorebooks
from understudy.npc.memory import recollection
from understudy.prompt import Conversation, Message
from understudy.retrieval import ALL_KNOWING

if TYPE_CHECKING:
    from understudy.engine import SamplingParams
    from understudy.npc.model import Model
    from understudy.npc.session import Session

__all__ = [
    "guarded",
    "of_database",
    "of_lorebooks",
    "of_memory",
    "of_world",
    "prompt_room",
    "scan_books",
    "text_counter",
]

_LOREBOOK_SHARE = 4  # lorebooks get at most this part of the prompt


def prompt_room(model: "Model", max_tokens: int) -> int:
    """Longest prompt, in tokens, beside an answer; the engine clamps one that may become too long."""
    limit = model.files.config.max_position_embeddings
    return max(limit - max_tokens, limit // 2)


def guarded(
    sampling: "SamplingParams | None", talk: Conversation, count: Callable[[Conversation], int]
) -> "SamplingParams | None":
    """The guard against repetition looks at what was said; persona and lore may be repeated word by word."""
    if sampling is None or not sampling.dry_multiplier or sampling.dry_skip_tokens:
        return sampling
    given = dataclasses.replace(talk, messages=talk.messages[:1])
    return dataclasses.replace(sampling, dry_skip_tokens=count(given))


def scan_books(
    session: "Session",
    line: str,
    history: Sequence[Message],
    *,
    max_prompt_tokens: int,
    count: Callable[[Conversation], int],
) -> LoreScan | None:
    """Look through the card's own lorebook and the game's; None where there are none.

    Args:
        session: whose they are.
        line: what the player says now.
        history: turns before, well-formed.
        max_prompt_tokens: the prompt's budget, of which lorebooks get a part.
        count: length of a conversation's prompt, in tokens.
    """
    books = [*([session.card.lorebook] if session.card.lorebook else []), *session.books]
    if not books:
        return None
    said = [*history, Message(role="user", content=line)]
    return scan_lorebooks(
        books,
        said,
        session.lore_state,
        count=text_counter(count),
        char=session.card.char,
        user=session.player,
        seed=session.seed,
        settings=ScanSettings(budget_tokens=max_prompt_tokens // _LOREBOOK_SHARE),
        greeting=0,
        is_context_full=count(Conversation(messages=(session.system, *said))) > max_prompt_tokens,
    )


def of_memory(session: "Session", line: str) -> list[Passage]:
    """What the character remembers of the player; what a player said is told as a quotation."""
    facts = session.memory.recall(session.player_id, session.who, line) if session.memory is not None else []
    if not facts:
        return []
    text, ids = recollection(facts, session.player), ", ".join(str(fact.id) for fact in facts)
    return [Passage(source="memory", id=f"facts {ids}", title=session.player, text=text, reason=f"facts {ids}")]


def of_database(
    session: "Session", line: str, recent: Sequence[str], given: set[str], *, wait_s: float
) -> tuple[list[Passage], tuple[str, ...]]:
    """Passages of the lore database that this character may know, but for those that the world gives already.

    Args:
        session: who is asked.
        line: what the player says now.
        recent: what was said last.
        given: texts that the world gives.
        wait_s: longest wait for an embedder; then words alone count.

    Returns:
        The passages, and what the search had to do without.
    """
    if session.lore is None:
        return [], ()
    who = f" {session.who}" if session.who == ALL_KNOWING else session.who  # a card's name makes nobody the narrator
    looked = session.lore.look_up(line, character=who, history=recent, wait_s=wait_s)
    passages = [
        Passage(source="lore", id=one.id, title=one.title, text=one.context, reason=one.reason)
        for one in looked.found
        if one.text not in given
    ]
    return passages, (looked.note,) if looked.note else ()


def of_world(found: Selected) -> Passage:
    """An entry of the character's world."""
    entry = found.entry
    reason = f"matched {', '.join(found.matched_keys)}"
    return Passage(source="world", id=entry.id, title=entry.title, text=entry.text, reason=reason)


def of_lorebooks(scan: LoreScan | None) -> list[Passage]:
    """All entries; the model reads lore in its contexts, wherever a front end's prompt would have them stand."""
    if scan is None:
        return []
    chosen = [outcome for outcome in scan.chosen if outcome.text]
    others = [outcome for outcome in scan.outcomes if not outcome.is_kept]
    return [
        Passage(
            source="lorebook",
            id=f"{outcome.book}/{outcome.entry.id}" if outcome.book else outcome.entry.id,
            title=outcome.entry.title or outcome.entry.id,
            text=outcome.text,
            reason=outcome.detail,
            is_kept=outcome.is_kept,
        )
        for outcome in (*chosen, *others)
    ]


def text_counter(count: Callable[[Conversation], int]) -> Callable[[str], int]:
    """Tokens of a text, by the length of a conversation with it."""

    def length(text: str) -> int:
        return count(Conversation(messages=(Message(role="user", content=text),)))

    return lambda text: length(text) - length("")
