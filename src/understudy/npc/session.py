"""One conversation of a player with a character, and its file."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from understudy.errors import CardError, ContextLengthError, SaveError
from understudy.npc.card import Card
from understudy.npc.lore import Selected, select_lore
from understudy.npc.world import World
from understudy.prompt import Conversation, Message

__all__ = ["Session"]

_FORMAT = "understudy-session"
_VERSION = 1
_MAX_BYTES = 64 << 20


class Session:
    """A character, a player and what they said.

    Attributes:
        card: the character.
        world: where its lore is, if anywhere.
        player: what the character calls the player.
        history: turns so far, player and character alternating.
        last_lore: the passages of the last `conversation`.
    """

    def __init__(self, card: Card, world: World | None = None, player: str = "traveller") -> None:
        self.card = card
        self.world = world
        self.player = player
        self.history: list[Message] = []
        self.last_lore: list[Selected] = []

    def conversation(self, line: str, *, max_prompt_tokens: int, count: Callable[[Conversation], int]) -> Conversation:
        """What to show the model for the player's next line; nothing is remembered until `commit`.

        Where it does not fit, the oldest pairs of turns go first, then the weakest lore.

        Args:
            line: what the player says now.
            max_prompt_tokens: the budget, in tokens.
            count: length of a conversation's prompt, in tokens.

        Raises:
            ContextLengthError: the line with the system prompt alone is too long.
        """
        system = self._system()
        recent = [message.content for message in self.history[-2:]]
        lore = select_lore(self.world, self.card, line, history=recent)

        def build(num_pairs: int) -> Conversation:
            turns = self.history[len(self.history) - 2 * num_pairs :]
            return Conversation(
                messages=(system, *turns, Message(role="user", content=line)),
                contexts=tuple(found.entry.text for found in lore),
            )

        fewest, most = 0, len(self.history) // 2
        best = build(most)
        if count(best) > max_prompt_tokens:
            best = build(0)
            while (length := count(best)) > max_prompt_tokens:
                if not lore:
                    raise ContextLengthError(length, max_prompt_tokens)
                lore.pop()
                best = build(0)
            most -= 1
            while fewest < most:  # the most pairs that fit
                middle = (fewest + most + 1) // 2
                candidate = build(middle)
                if count(candidate) <= max_prompt_tokens:
                    fewest, best = middle, candidate
                else:
                    most = middle - 1
        self.last_lore = lore
        return best

    def commit(self, line: str, answer: str) -> None:
        """Remember a pair of turns."""
        self.history += [Message(role="user", content=line), Message(role="assistant", content=answer)]

    def reset(self) -> None:
        """Forget all turns."""
        self.history.clear()
        self.last_lore = []

    def save(self, path: Path) -> None:
        """Write the conversation, whole or not at all.

        Raises:
            SaveError: the file cannot be written.
        """
        document = {
            "format": _FORMAT,
            "version": _VERSION,
            "world": self.world.id if self.world else None,
            "player": self.player,
            "card": self.card.to_json(),
            "history": [{"role": message.role, "content": message.content} for message in self.history],
        }
        temporary = None
        try:
            text = json.dumps(document, indent=1)
            with tempfile.NamedTemporaryFile(
                "w", encoding="ascii", dir=path.parent, prefix=".saving-", delete=False
            ) as file:
                temporary = Path(file.name)
                file.write(text + "\n")
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except (OSError, ValueError, TypeError, RecursionError) as error:
            if temporary:
                temporary.unlink(missing_ok=True)
            why = error.strerror if isinstance(error, OSError) else error
            raise SaveError(f"Cannot save to {path}: {why}. Choose a file in a folder that exists.") from error

    @classmethod
    def load(cls, path: Path, *, world: World | None = None) -> Self:
        """Read a saved conversation.

        Args:
            path: what `save` wrote.
            world: the world it was saved in; its lore is not in the file.

        Raises:
            SaveError: the file is missing, broken, foreign, of another version, or of another world.
        """
        document = _read(path)
        if document["version"] != _VERSION:
            raise SaveError(
                f"{path} has version {document['version']!r} of the format; this program reads version {_VERSION}. "
                "Use the program that saved it, or start anew."
            )
        saved_world, player, turns = document.get("world"), document.get("player"), document.get("history")
        if saved_world != (world.id if world else None):
            raise SaveError(f"{path} was saved in the world {saved_world!r}. Open it with that world.")
        if not isinstance(player, str) or not isinstance(turns, list):
            raise SaveError(f'{path} is damaged: it needs "player", a text, and "history", a list.')
        try:
            card = Card.from_json(document.get("card"), source=f"The card in {path}")
        except CardError as error:
            raise SaveError(f"{path} is damaged. {error}") from error
        session = cls(card, world, player)
        session.history = [_message(turn, number, path) for number, turn in enumerate(turns)]
        if len(turns) % 2:
            raise SaveError(f"{path} is damaged: its last line has no answer. Take it out.")
        return session

    def _system(self) -> Message:
        is_local = self.world is not None and any(card == self.card for card in self.world.characters)
        place = self.world.name if self.world and is_local else ""
        return Message(role="system", content=self.card.instructions(self.player, place=place))


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise SaveError(f"Cannot read {path}: {why}. Give a file that was saved before.") from error
    if len(content) > _MAX_BYTES:
        raise SaveError(f"{path} is larger than 64 MiB; that is no saved conversation.")
    try:
        document = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise SaveError(f"{path} is no valid JSON: {error}. Take an older save.") from error
    if not isinstance(document, dict) or document.get("format") != _FORMAT or "version" not in document:
        raise SaveError(f'{path} is no saved conversation: expected "format": "{_FORMAT}". Give another file.')
    return document


def _message(turn: Any, number: int, path: Path) -> Message:
    role, other = ("assistant", "player's") if number % 2 else ("user", "character's")
    if not isinstance(turn, dict) or turn.get("role") != role or not isinstance(turn.get("content"), str):
        raise SaveError(
            f'{path} is damaged: line {number + 1} of "history" must have role "{role}" and a text; '
            f"it follows the {other} line."
        )
    return Message(role="assistant" if number % 2 else "user", content=turn["content"])
