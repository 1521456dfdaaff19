"""One conversation of a player with a character: who speaks, what was said, and the turns that they take."""

import asyncio
import contextlib
import dataclasses
import functools
import time
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
from typing import TYPE_CHECKING, Any, Self

from understudy.errors import SaveError
from understudy.npc.briefing import Briefing, fit_briefing
from understudy.npc.card import Card
from understudy.npc.lore import Selected, select_lore
from understudy.npc.lorebook import Lorebook, LoreState
from understudy.npc.memory import Memory
from understudy.npc.memory_summary import summarise
from understudy.npc.session_document import SavedSession
from understudy.npc.shown import (
    guarded,
    of_database,
    of_lorebooks,
    of_memory,
    of_world,
    prompt_room,
    scan_books,
    text_counter,
)
from understudy.npc.state import RandomState
from understudy.npc.world import World
from understudy.prompt import Conversation, Message, ToolCall
from understudy.prompt.template import tool_function
from understudy.retrieval import Lore
from understudy.tools.functions import FunctionTool
from understudy.tools.history import mend_history
from understudy.tools.loop import Event, LoopLimits, Spoken, ToolLoop

if TYPE_CHECKING:
    from understudy.engine import Generation, SamplingParams
    from understudy.npc.model import Model

__all__ = ["Session"]

_LORE_SHARE = 4  # of a line's time, waiting for an embedder takes at most this part
_LORE_WAIT_S = 5.0  # and never longer
_NO_TIME_S = 1e-9  # none: what is late may not say a word
_Start = Callable[[Sequence[Message], Sequence[Mapping[str, Any]]], "Generation"]


class Session:
    """A character, a player and what they said.

    Attributes:
        card: the character.
        world: where its lore is, if anywhere.
        player: what the character calls the player.
        tools: the game's functions.
        history: turns so far: a line of the player, then what the character says, its calls and their results.
        lore: a database of lore beside the world's, if any.
        books: the game's lorebooks; the card's own comes before them.
        memory: where facts about players are kept, if anywhere.
        player_id: whom the memory knows the player as; default: by the name that the character uses.
        random: the conversation's chance; None: the caller's seeds alone.
        lore_state: what the lorebooks remember.
        briefing: what the last `conversation` showed the model, and why.
        last_lore: the world's passages in it.
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
        lore: Lore | None = None,
        books: Sequence[Lorebook] = (),
        memory: Memory | None = None,
    ) -> None:
        self.card = card
        self.world = world
        self.player = player
        self.tools = tuple(tools)
        self.history: list[Message] = []
        self.lore = lore
        self.books = tuple(books)
        self.memory = memory
        self.player_id = player
        self.random: RandomState | None = None
        self.lore_state = LoreState()
        self.briefing: Briefing | None = None
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
        deadline_s: float | None = None,
        remember: bool = True,
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
            deadline_s: after so many seconds from now the model stops with what it has; None for never.
            remember: False leaves no trace in this conversation.

        Returns:
            The words, in pieces. Closing it early stops the model; what was said and done so far is remembered.

        Raises:
            ContextLengthError: the line is too long; at once, before anything is read from the generator.
            RequestError: a sampling value is out of range, or a schema of a tool cannot be held to; at once.
            ToolError: two tools have one name; at once.
        """
        loop = ToolLoop(self.offered_tools, limits=limits, refuse=refuse, is_dry_run=is_dry_run)
        start = self._starter(line, model, sampling=sampling, max_tokens=max_tokens, deadline_s=deadline_s)
        begun = [start((), [tool.schema for tool in self.offered_tools])]  # what is wrong is told at once

        def ask(turn: Sequence[Message], schemas: Sequence[Mapping[str, Any]]) -> Iterator[str]:
            generation = begun.pop() if begun else start(turn, schemas)
            try:
                for chunk in generation:
                    yield chunk.text
            finally:
                generation.cancel()

        return self._take_turn(line, loop, ask, on_event, remember=remember)

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
        deadline_s: float | None = None,
        remember: bool = True,
    ) -> AsyncGenerator[str]:
        """Like `say`, in an event loop: `async for words in session.asay(...)`.

        The loop is free while lore is looked up, while the model computes, and while an async function waits. A
        function that is not async runs in the loop's thread, where the game's state and an SQLite connection are at
        home, and holds the loop up for as long as it runs: a slow one should be `async def`. So do `refuse` and
        `on_event`.

        Returns:
            The words, in pieces. Cancelling the task, or `aclose()`, stops the model; what was said and done so far is
            remembered. Who leaves the `async for` early should close it: `async with contextlib.aclosing(...)`. The
            errors of `say` come with the first of them.
        """
        loop = ToolLoop(self.offered_tools, limits=limits, refuse=refuse, is_dry_run=is_dry_run)
        start = self._starter(line, model, sampling=sampling, max_tokens=max_tokens, deadline_s=deadline_s)

        async def ask(turn: Sequence[Message], schemas: Sequence[Mapping[str, Any]]) -> AsyncIterator[str]:
            generation = await _in_thread(start, turn, schemas)
            try:
                async for chunk in generation:
                    yield chunk.text
            finally:
                generation.cancel()

        return self._atake_turn(line, loop, ask, on_event, remember=remember)

    def _starter(
        self,
        line: str,
        model: "Model",
        *,
        sampling: "SamplingParams | None",
        max_tokens: int,
        deadline_s: float | None,
    ) -> _Start:
        """What asks the model for an answer to the line, and again after each round of calls; from any thread."""
        room = prompt_room(model, max_tokens)
        tools = self.offered_tools
        until_s = None if deadline_s is None else time.monotonic() + deadline_s
        asked: list[tuple[Conversation, Generation]] = []
        self.asked = asked

        def start(turn: Sequence[Message], schemas: Sequence[Mapping[str, Any]]) -> "Generation":
            wait_s = _LORE_WAIT_S
            if until_s is not None:
                wait_s = min(wait_s, max(until_s - time.monotonic(), 0.0) / _LORE_SHARE)
            talk = self.conversation(
                line, max_prompt_tokens=room, count=model.count, turn=turn, tools=schemas, lore_wait_s=wait_s
            )
            constraint = model.call_constraint(schemas) if tools else None
            left_s = None if until_s is None else max(until_s - time.monotonic(), _NO_TIME_S)
            generation = model.generate(
                talk,
                sampling=guarded(sampling, talk, model.count),
                max_tokens=max_tokens,
                min_tokens=1,  # nobody who is spoken to stays dumb
                constraint=constraint,
                deadline_s=left_s,
            )
            self.num_prompt_tokens = generation.usage.prompt_tokens
            asked.append((talk, generation))
            return generation

        return start

    def _take_turn(
        self,
        line: str,
        loop: ToolLoop,
        ask: Callable[[Sequence[Message], Sequence[Mapping[str, Any]]], Iterable[str]],
        on_event: Callable[[Event], None] | None,
        *,
        remember: bool,
    ) -> Generator[str]:
        try:
            with contextlib.closing(loop.run(ask)) as events:
                for event in events:
                    if on_event:
                        on_event(event)
                    if isinstance(event, Spoken):
                        yield event.text
        finally:
            if remember and loop.messages:
                self._remember(line, loop.messages)

    async def _atake_turn(
        self,
        line: str,
        loop: ToolLoop,
        ask: Callable[[Sequence[Message], Sequence[Mapping[str, Any]]], AsyncIterable[str]],
        on_event: Callable[[Event], None] | None,
        *,
        remember: bool,
    ) -> AsyncGenerator[str]:
        try:
            async with contextlib.aclosing(loop.arun(ask)) as events:
                async for event in events:
                    if on_event:
                        on_event(event)
                    if isinstance(event, Spoken):
                        yield event.text
        finally:
            if remember and loop.messages:
                self._remember(line, loop.messages)

    def _remember(self, line: str, turn: Sequence[Message]) -> None:
        self.history += [Message(role="user", content=line), *turn]
        if self.memory is not None:
            self.memory.observe(self.player_id, self.who, line)
        if self.briefing is not None and self.briefing.lore_scan is not None:
            self.lore_state = self.briefing.lore_scan.state

    def conversation(
        self,
        line: str,
        *,
        max_prompt_tokens: int,
        count: Callable[[Conversation], int],
        turn: Sequence[Message] = (),
        tools: Sequence[Mapping[str, Any]] = (),
        lore_wait_s: float = _LORE_WAIT_S,
    ) -> Conversation:
        """What to show the model for the player's next line; nothing is remembered until `commit`.

        Where it does not fit, the oldest exchanges go first, then the weakest lore. `briefing` tells what became of it.

        Args:
            line: what the player says now.
            max_prompt_tokens: the budget, in tokens.
            count: length of a conversation's prompt, in tokens.
            turn: what the character said and called since, and the results.
            tools: schemas of functions to offer.
            lore_wait_s: longest wait for the lore database's embedder, in s; then its words alone count.

        Raises:
            ContextLengthError: the line with the system prompt alone is too long.
        """
        history = mend_history(self.history)
        starts = [n for n, message in enumerate(history) if message.role == "user"]
        recent = [m.content for m in history[starts[-1] :] if m.role != "tool" and m.content] if starts else []
        scan = scan_books(self, line, history, max_prompt_tokens=max_prompt_tokens, count=count)
        selected = select_lore(self.world, self.card, line, history=recent)
        given = {found.entry.text for found in selected}
        of_lore, notes = of_database(self, line, recent, given, wait_s=lore_wait_s)
        self.briefing = fit_briefing(
            system=self._system(scan.disabled_prompts if scan else frozenset()),
            line=line,
            history=history,
            turn=turn,
            tools=tools,
            passages=[*of_memory(self, line), *of_lorebooks(scan), *map(of_world, selected), *of_lore],
            max_prompt_tokens=max_prompt_tokens,
            count=count,
            lore_scan=scan,
            summarise=functools.partial(self._summary, count=text_counter(count)),
            notes=notes,
        )
        kept = {passage.id for passage in self.briefing.passages if passage.source == "world" and passage.is_kept}
        self.last_lore = [found for found in selected if found.entry.id in kept]
        return self.briefing.conversation

    def commit(self, line: str, answer: str) -> None:
        """Remember a pair of turns, as `say` does."""
        self._remember(line, [Message(role="assistant", content=answer)])

    def reset(self) -> None:
        """Forget all turns."""
        self.history.clear()
        self.last_lore, self.briefing, self.lore_state = [], None, LoreState()

    def to_json(self) -> dict[str, Any]:
        """The conversation as a document; lore, memory and functions are not in it."""
        return SavedSession(
            world=self.world.id if self.world else None,
            player=self.player,
            card=self.card,
            history=tuple(self.history),
            random=self.random,
            lore_state=self.lore_state,
        ).to_json()

    @classmethod
    def from_json(
        cls,
        document: Mapping[str, Any],
        *,
        source: str = "The saved conversation",
        world: World | None = None,
        tools: Sequence[FunctionTool] = (),
    ) -> Self:
        """Go on with a document.

        Args:
            document: what `to_json` gave.
            source: what to call it in errors.
            world: the world it was saved in.
            tools: the game's functions.

        Raises:
            SaveError: it is broken, foreign, of another version, or of another world.
        """
        saved = SavedSession.from_json(document, source)
        if saved.world != (world.id if world else None):
            raise SaveError(f"{source} was saved in the world {saved.world!r}. Open it with that world.")
        session = cls(saved.card, world, saved.player, tools=tools)
        session.history = list(saved.history)
        session.random, session.lore_state = saved.random, saved.lore_state
        return session

    @property
    def seed(self) -> int:
        """Of the card's dice and the lorebooks' draws; the same for the whole conversation."""
        return self.random.seed if self.random else 0

    @property
    def system(self) -> Message:
        """Who the character is, in the model's words."""
        return self._system()

    def _system(self, disabled_prompts: frozenset[str] = frozenset()) -> Message:
        is_local = self.world is not None and any(card == self.card for card in self.world.characters)
        place = self.world.name if self.world and is_local else ""
        left_out: dict[str, Any] = dict.fromkeys(disabled_prompts, "")
        card = dataclasses.replace(self.card, **left_out)
        return Message(role="system", content=card.instructions(self.player, place=place, seed=self.seed))

    @property
    def who(self) -> str:
        """The character's name in databases."""
        return self.card.id or self.card.name

    def _summary(self, turns: Sequence[Message], max_tokens: int, *, count: Callable[[str], int]) -> str:
        return summarise(turns, player=self.player, character=self.card.char, max_tokens=max_tokens, count=count)


async def _in_thread(start: _Start, turn: Sequence[Message], schemas: Sequence[Mapping[str, Any]]) -> "Generation":
    """Ask for an answer while the loop goes on; a long prompt and a slow embedder take a while."""
    begun = asyncio.ensure_future(asyncio.to_thread(start, turn, schemas))
    try:
        return await asyncio.shield(begun)
    except asyncio.CancelledError:
        begun.add_done_callback(_cancel)  # a thread cannot be stopped: what it begins is, once it is there
        await asyncio.wait((begun,))
        raise


def _cancel(begun: "asyncio.Future[Generation]") -> None:
    if not begun.cancelled() and begun.exception() is None:
        begun.result().cancel()
