"""One conversation of a player with a character, and its file."""

import contextlib
import json
import os
import tempfile
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from understudy.errors import CardError, ContextLengthError, SaveError
from understudy.npc.card import Card
from understudy.npc.lore import Selected, select_lore
from understudy.npc.world import World
from understudy.prompt import Conversation, Message, ToolCall
from understudy.prompt.template import tool_function
from understudy.tools.functions import FunctionTool
from understudy.tools.history import mend_history
from understudy.tools.loop import Event, LoopLimits, Spoken, ToolLoop

if TYPE_CHECKING:
    from understudy.engine import Generation, SamplingParams
    from understudy.npc.model import Model

__all__ = ["Session"]

_FORMAT = "understudy-session"
# The second may hold calls and their results; a conversation without any is written as the first.
_VERSIONS = (1, 2)
_MAX_BYTES = 64 << 20
_Start = Callable[[Sequence[Message], Sequence[Mapping[str, Any]]], "Generation"]
_ROLES_AFTER = {
    "": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "assistant", "tool"),
    "tool": ("tool", "assistant", "user"),
}


class Session:
    """A character, a player and what they said.

    Attributes:
        card: the character.
        world: where its lore is, if anywhere.
        player: what the character calls the player.
        tools: the game's functions.
        history: turns so far: a line of the player, then what the character says, its calls and their results.
        last_lore: the passages of the last `conversation`.
        num_prompt_tokens: length of the last prompt of `say`, in tokens.
        asked: what the model was shown since the last line, and what it made of it: once, and once more a round.
    """

    def __init__(
        self,
        card: Card,
        world: World | None = None,
        player: str = "traveller",
        *,
        tools: Sequence[FunctionTool] = (),
    ) -> None:
        self.card = card
        self.world = world
        self.player = player
        self.tools = tuple(tools)
        self.history: list[Message] = []
        self.last_lore: list[Selected] = []
        self.num_prompt_tokens = 0
        self.asked: list[tuple[Conversation, Generation]] = []

    @property
    def offered_tools(self) -> tuple[FunctionTool, ...]:
        """The functions that the character may call: of those that its world has, the ones on its card."""
        of_world = {tool_function(schema)["name"] for schema in self.world.tools} if self.world else set()
        barred = of_world - set(self.card.tools)
        return tuple(tool for tool in self.tools if tool.name not in barred)

    def say(
        self,
        line: str,
        *,
        model: "Model",
        sampling: "SamplingParams | None" = None,
        max_tokens: int = 120,
        limits: LoopLimits | None = None,
        refuse: Callable[[ToolCall, Mapping[str, Any]], str | None] | None = None,
        is_dry_run: bool = False,
        on_event: Callable[[Event], None] | None = None,
    ) -> Generator[str]:
        """Say a line to the character: it may call functions, then it answers; all is remembered.

        Args:
            line: what the player says.
            model: who plays the character.
            sampling: how tokens are drawn; default: the model's own.
            max_tokens: of each answer, in tokens.
            limits: how much a turn may do.
            refuse: may refuse a call before it is run; see `ToolLoop`.
            is_dry_run: calls are shown to `on_event`, none is run.
            on_event: is told of words, calls, results and the end as they come.

        Returns:
            The words, in pieces. Closing it early stops the model; what was said and done so far is remembered.

        Raises:
            ContextLengthError: the line is too long; at once, before anything is read from the generator.
            RequestError: a sampling value is out of range, or a schema of a tool cannot be held to; at once.
            ToolError: two tools have one name; at once.
        """
        loop = ToolLoop(self.offered_tools, limits=limits, refuse=refuse, is_dry_run=is_dry_run)
        start = self._begin(line, model, sampling=sampling, max_tokens=max_tokens)

        def ask(turn: Sequence[Message], schemas: Sequence[Mapping[str, Any]]) -> Iterator[str]:
            generation = start(turn, schemas)
            try:
                for chunk in generation:
                    yield chunk.text
            finally:
                generation.cancel()

        return self._take_turn(line, loop, ask, on_event)

    def asay(
        self,
        line: str,
        *,
        model: "Model",
        sampling: "SamplingParams | None" = None,
        max_tokens: int = 120,
        limits: LoopLimits | None = None,
        refuse: Callable[[ToolCall, Mapping[str, Any]], str | None] | None = None,
        is_dry_run: bool = False,
        on_event: Callable[[Event], None] | None = None,
    ) -> AsyncGenerator[str]:
        """Like `say`, in an event loop: `async for words in session.asay(...)`.

        The loop is free while the model computes and while an async function waits. A function that is not async runs
        in the loop's thread, where the game's state and an SQLite connection are at home, and holds the loop up for as
        long as it runs: a slow one should be `async def`. So do `refuse` and `on_event`.

        Returns:
            The words, in pieces. Cancelling the task, or `aclose()`, stops the model; what was said and done so far is
            remembered. Who leaves the `async for` early should close it: `async with contextlib.aclosing(...)`.
        """
        loop = ToolLoop(self.offered_tools, limits=limits, refuse=refuse, is_dry_run=is_dry_run)
        start = self._begin(line, model, sampling=sampling, max_tokens=max_tokens)

        async def ask(turn: Sequence[Message], schemas: Sequence[Mapping[str, Any]]) -> AsyncIterator[str]:
            generation = start(turn, schemas)
            try:
                async for chunk in generation:
                    yield chunk.text
            finally:
                generation.cancel()

        return self._atake_turn(line, loop, ask, on_event)

    def _begin(self, line: str, model: "Model", *, sampling: "SamplingParams | None", max_tokens: int) -> _Start:
        """Ask for the first answer now, so that what is wrong is told at once; the others when it is called again."""
        limit = model.files.config.max_position_embeddings
        room = max(limit - max_tokens, limit // 2)  # the engine clamps an answer that may become too long
        tools = self.offered_tools

        def start(turn: Sequence[Message], schemas: Sequence[Mapping[str, Any]]) -> "Generation":
            talk = self.conversation(line, max_prompt_tokens=room, count=model.count, turn=turn, tools=schemas)
            constraint = model.call_constraint(schemas) if tools else None
            generation = model.generate(talk, sampling=sampling, max_tokens=max_tokens, constraint=constraint)
            self.num_prompt_tokens = generation.usage.prompt_tokens
            asked.append((talk, generation))
            return generation

        asked: list[tuple[Conversation, Generation]] = []
        begun = [start((), [tool.schema for tool in tools])]
        self.asked = asked
        return lambda turn, schemas: begun.pop() if begun else start(turn, schemas)

    def _take_turn(
        self,
        line: str,
        loop: ToolLoop,
        ask: Callable[[Sequence[Message], Sequence[Mapping[str, Any]]], Iterable[str]],
        on_event: Callable[[Event], None] | None,
    ) -> Generator[str]:
        try:
            with contextlib.closing(loop.run(ask)) as events:
                for event in events:
                    if on_event:
                        on_event(event)
                    if isinstance(event, Spoken):
                        yield event.text
        finally:
            self._remember(line, loop)

    async def _atake_turn(
        self,
        line: str,
        loop: ToolLoop,
        ask: Callable[[Sequence[Message], Sequence[Mapping[str, Any]]], AsyncIterable[str]],
        on_event: Callable[[Event], None] | None,
    ) -> AsyncGenerator[str]:
        try:
            async with contextlib.aclosing(loop.arun(ask)) as events:
                async for event in events:
                    if on_event:
                        on_event(event)
                    if isinstance(event, Spoken):
                        yield event.text
        finally:
            self._remember(line, loop)

    def _remember(self, line: str, loop: ToolLoop) -> None:
        if loop.messages:
            self.history += [Message(role="user", content=line), *loop.messages]

    def conversation(
        self,
        line: str,
        *,
        max_prompt_tokens: int,
        count: Callable[[Conversation], int],
        turn: Sequence[Message] = (),
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> Conversation:
        """What to show the model for the player's next line; nothing is remembered until `commit`.

        Where it does not fit, the oldest exchanges go first, then the weakest lore.

        Args:
            line: what the player says now.
            max_prompt_tokens: the budget, in tokens.
            count: length of a conversation's prompt, in tokens.
            turn: what the character said and called since, and the results.
            tools: schemas of functions to offer.

        Raises:
            ContextLengthError: the line with the system prompt alone is too long.
        """
        system = self._system()
        history = mend_history(self.history)
        starts = [n for n, message in enumerate(history) if message.role == "user"]
        recent = [m.content for m in history[starts[-1] :] if m.role != "tool" and m.content] if starts else []
        lore = select_lore(self.world, self.card, line, history=recent)

        def build(num_exchanges: int) -> Conversation:
            turns = history[starts[-num_exchanges] :] if num_exchanges else []
            return Conversation(
                messages=(system, *turns, Message(role="user", content=line), *turn),
                tools=tuple(tools),
                contexts=tuple(found.entry.text for found in lore),
            )

        fewest, most = 0, len(starts)
        best = build(most)
        if count(best) > max_prompt_tokens:
            best = build(0)
            while (length := count(best)) > max_prompt_tokens:
                if not lore:
                    raise ContextLengthError(length, max_prompt_tokens)
                lore.pop()
                best = build(0)
            most -= 1
            while fewest < most:  # the most exchanges that fit
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
            "version": _VERSIONS[any(message.tool_calls or message.role == "tool" for message in self.history)],
            "world": self.world.id if self.world else None,
            "player": self.player,
            "card": self.card.to_json(),
            "history": [_saved(message) for message in self.history],
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
    def load(cls, path: Path, *, world: World | None = None, tools: Sequence[FunctionTool] = ()) -> Self:
        """Read a saved conversation.

        Args:
            path: what `save` wrote.
            world: the world it was saved in; its lore is not in the file.
            tools: the game's functions; they are not in the file.

        Raises:
            SaveError: the file is missing, broken, foreign, of another version, or of another world.
        """
        document = _read(path)
        if document["version"] not in _VERSIONS:
            raise SaveError(
                f"{path} has version {document['version']!r} of the format; this program reads up to {_VERSIONS[-1]}. "
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
        session = cls(card, world, player, tools=tools)
        previous = ""
        for number, turn in enumerate(turns):
            message = _message(turn, number, path, roles=_ROLES_AFTER[previous])
            session.history.append(message)
            previous = message.role
        if previous == "user":
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


def _saved(message: Message) -> dict[str, Any]:
    saved: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        saved["tool_calls"] = [
            {"id": call.id, "name": call.name, "arguments": call.arguments} for call in message.tool_calls
        ]
    if message.tool_call_id:
        saved["tool_call_id"] = message.tool_call_id
    return saved


def _message(turn: Any, number: int, path: Path, *, roles: tuple[str, ...]) -> Message:
    where = f'{path} is damaged: line {number + 1} of "history"'
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
