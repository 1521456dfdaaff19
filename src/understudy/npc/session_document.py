"""A conversation as a document of JSON."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from understudy.errors import CardError, SaveError
from understudy.npc.card import Card
from understudy.npc.lorebook import LoreState
from understudy.npc.state import RandomState
from understudy.prompt import Message, ToolCall

__all__ = ["SavedSession"]

_FORMAT = "understudy-session"
# The second may hold calls and their results, the third chance and what lorebooks remember.
_VERSIONS = (1, 2, 3)
_ROLES_AFTER = {
    "": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "assistant", "tool"),
    "tool": ("tool", "assistant", "user"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SavedSession:
    """What a document holds.

    Attributes:
        world: id of the world; its lore is not in the document.
        player: what the character calls the player.
        card: the character.
        history: turns.
        random: where chance has come to; None in older documents.
        lore_state: what lorebooks remember.
    """

    world: str | None
    player: str
    card: Card
    history: tuple[Message, ...]
    random: RandomState | None = None
    lore_state: LoreState = dataclasses.field(default_factory=LoreState)

    def to_json(self) -> dict[str, Any]:
        """The document, in the oldest version that holds it."""
        has_calls = any(message.tool_calls or message.role == "tool" for message in self.history)
        has_state = self.random is not None or self.lore_state != LoreState()
        document = {
            "format": _FORMAT,
            "version": 3 if has_state else 2 if has_calls else 1,
            "world": self.world,
            "player": self.player,
            "card": self.card.to_json(),
            "history": [_saved(message) for message in self.history],
        }
        if has_state:
            random = self.random.to_json() if self.random else None
            document |= {"random": random, "lore_state": self.lore_state.to_json()}
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any], source: str) -> "SavedSession":
        """Read a document.

        Args:
            document: what `to_json` gave.
            source: what to call it in errors.

        Raises:
            SaveError: it is broken, foreign, or of another version.
        """
        if document.get("format") != _FORMAT or "version" not in document:
            raise SaveError(f'{source} is no saved conversation: expected "format": "{_FORMAT}". Give another file.')
        if document["version"] not in _VERSIONS:
            raise SaveError(
                f"{source} has version {document['version']!r} of the format; this program reads up to "
                f"{_VERSIONS[-1]}. Use the program that saved it, or start anew."
            )
        world, player, turns = document.get("world"), document.get("player"), document.get("history")
        if not isinstance(player, str) or not isinstance(turns, list):
            raise SaveError(f'{source} is damaged: it needs "player", a text, and "history", a list.')
        try:
            card = Card.from_json(document.get("card"), source=f"The card in {source}")
        except CardError as error:
            raise SaveError(f"{source} is damaged. {error}") from error
        random, lore_state = document.get("random"), document.get("lore_state")
        return cls(
            world=world,
            player=player,
            card=card,
            history=_history(turns, source),
            random=None if random is None else RandomState.from_json(random),
            lore_state=LoreState() if lore_state is None else LoreState.from_json(lore_state, source=source),
        )


def _saved(message: Message) -> dict[str, Any]:
    saved: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        saved["tool_calls"] = [
            {"id": call.id, "name": call.name, "arguments": call.arguments} for call in message.tool_calls
        ]
    if message.tool_call_id:
        saved["tool_call_id"] = message.tool_call_id
    return saved


def _history(turns: list[Any], source: str) -> tuple[Message, ...]:
    history = []
    previous = ""
    for number, turn in enumerate(turns):
        message = _message(turn, number, source, roles=_ROLES_AFTER[previous])
        history.append(message)
        previous = message.role
    if previous == "user":
        raise SaveError(f"{source} is damaged: its last line has no answer. Take it out.")
    return tuple(history)


def _message(turn: Any, number: int, source: str, *, roles: tuple[str, ...]) -> Message:
    where = f'{source} is damaged: line {number + 1} of "history"'
    if not isinstance(turn, dict) or turn.get("role") not in roles or not isinstance(turn.get("content"), str):
        wanted = " or ".join(f'"{role}"' for role in roles)
        raise SaveError(f"{where} must have role {wanted} and a text, after the line before it.")
    calls, call_id = turn.get("tool_calls", []), turn.get("tool_call_id", "")
    if not isinstance(calls, list) or not isinstance(call_id, str):
        raise SaveError(f'{where}: "tool_calls" must be a list, "tool_call_id" a text.')
    return Message(
        role=turn["role"],
        content=turn["content"],
        tool_calls=tuple(_call(call, where) for call in calls),
        tool_call_id=call_id,
    )


def _call(call: Any, where: str) -> ToolCall:
    texts = {key: call.get(key) for key in ("name", "arguments", "id")} if isinstance(call, dict) else {}
    found = {key: value for key, value in texts.items() if isinstance(value, str)}
    if len(found) < len(ToolCall.__dataclass_fields__):
        raise SaveError(f"{where}: a call must have a name, arguments and an id, each a text.")
    return ToolCall(**found)
