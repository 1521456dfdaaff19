"""The characters that come with the server, and `character` in a chat request: one field instead of a session."""

import dataclasses
import functools

from understudy.npc.card import Card
from understudy.npc.model import Model
from understudy.npc.session import Session
from understudy.npc.shown import prompt_room
from understudy.npc.world import World, default_world
from understudy.prompt import Conversation
from understudy.server.problem import Problem

__all__ = ["in_character", "known_card", "sample_world"]

_ANSWER_TOKENS = 120  # kept free where the client does not say how long an answer may be


@functools.cache
def sample_world() -> World:
    """The world inside the package, read once."""
    return default_world()


def known_card(name: str, world: World) -> Card:
    """A character of the world by id or name; never a file.

    Raises:
        Problem: 404, with who there is.
    """
    wanted = " ".join(name.split()).casefold()
    for card in world.characters:
        if wanted in (card.id.casefold(), card.name.casefold()):
            return card
    names = ", ".join(card.id or card.name for card in world.characters)
    raise Problem(
        404,
        f"There is no character {name[:80]!r} here; there are {names}.",
        param="character",
        code="unknown_character",
    )


def in_character(conversation: Conversation, name: str, model: Model, *, max_tokens: int | None) -> Conversation:
    """A client's conversation as one with a character: its persona first, then the lore that the last line calls for.

    The client's own system text follows the persona, its documents follow the lore. The oldest exchanges go where
    there is no room for all.

    Args:
        conversation: what the client sent.
        name: id or name of one of `/v1/characters`.
        model: whose tokens count.
        max_tokens: longest answer.

    Raises:
        Problem: there is no such character, or no line of the user.
        ContextLengthError: the last line alone is too long.
    """
    world = sample_world()
    card = known_card(name, world)
    own = "\n\n".join(m.content for m in conversation.messages if m.role == "system" and m.content)
    said = [message for message in conversation.messages if message.role != "system"]
    lines = [number for number, message in enumerate(said) if message.role == "user"]
    if not lines:
        raise Problem(400, "messages has no line of the user; a character answers one.", param="messages")

    def dressed(talk: Conversation) -> Conversation:
        first, *others = talk.messages
        if own and first.role == "system":
            first = dataclasses.replace(first, content=f"{first.content}\n\n{own}")
        contexts = (*talk.contexts, *conversation.contexts)
        return dataclasses.replace(talk, messages=(first, *others), contexts=contexts)

    session = Session(card, world)
    session.history = said[: lines[-1]]
    talk = session.conversation(
        said[lines[-1]].content,
        max_prompt_tokens=prompt_room(model, max_tokens or _ANSWER_TOKENS),
        count=lambda talk: model.count(dressed(talk)),
        turn=said[lines[-1] + 1 :],
        tools=conversation.tools,
    )
    return dressed(talk)
