"""One conversation of a player with a character, and its file."""

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
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from understudy.errors import SaveError
from understudy.npc.briefing import Briefing, Passage, fit_briefing
from understudy.npc.card import Card
from understudy.npc.lore import Selected, select_lore
from understudy.npc.lorebook import Lorebook, LoreScan, LoreState, ScanSettings, scan_lorebooks
from understudy.npc.memory import Memory, recollection
from understudy.npc.memory_summary import summarise
from understudy.npc.session_file import SavedSession, read_document, write_document
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

__all__ = ["Session", "prompt_room"]

_LOREBOOK_SHARE = 4  # lorebooks get at most this part of the prompt
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
        start = self._begin(line, model, sampling=sampling, max_tokens=max_tokens, deadline_s=deadline_s)

        def ask(turn: Sequence[Message], schemas: Sequence[Mapping[str, Any]]) -> Iterator[str]:
            generation = start(turn, schemas)
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

        The loop is free while the model computes and while an async function waits. A function that is not async runs
        in the loop's thread, where the game's state and an SQLite connection are at home, and holds the loop up for as
        long as it runs: a slow one should be `async def`. So do `refuse` and `on_event`.

        Returns:
            The words, in pieces. Cancelling the task, or `aclose()`, stops the model; what was said and done so far is
            remembered. Who leaves the `async for` early should close it: `async with contextlib.aclosing(...)`.
        """
        loop = ToolLoop(self.offered_tools, limits=limits, refuse=refuse, is_dry_run=is_dry_run)
        start = self._begin(line, model, sampling=sampling, max_tokens=max_tokens, deadline_s=deadline_s)

        async def ask(turn: Sequence[Message], schemas: Sequence[Mapping[str, Any]]) -> AsyncIterator[str]:
            generation = start(turn, schemas)
            try:
                async for chunk in generation:
                    yield chunk.text
            finally:
                generation.cancel()

        return self._atake_turn(line, loop, ask, on_event, remember=remember)

    def _begin(
        self,
        line: str,
        model: "Model",
        *,
        sampling: "SamplingParams | None",
        max_tokens: int,
        deadline_s: float | None,
    ) -> _Start:
        """Ask for the first answer now, so that what is wrong is told at once; the others when it is called again."""
        room = prompt_room(model, max_tokens)
        tools = self.offered_tools
        until_s = None if deadline_s is None else time.monotonic() + deadline_s

        def start(turn: Sequence[Message], schemas: Sequence[Mapping[str, Any]]) -> "Generation":
            talk = self.conversation(line, max_prompt_tokens=room, count=model.count, turn=turn, tools=schemas)
            constraint = model.call_constraint(schemas) if tools else None
            left_s = None if until_s is None else max(until_s - time.monotonic(), _NO_TIME_S)
            generation = model.generate(
                talk,
                sampling=_guarded(sampling, talk, model.count),
                max_tokens=max_tokens,
                constraint=constraint,
                deadline_s=left_s,
            )
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
            self.memory.observe(self.player, self._who, line)
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
    ) -> Conversation:
        """What to show the model for the player's next line; nothing is remembered until `commit`.

        Where it does not fit, the oldest exchanges go first, then the weakest lore. `briefing` tells what became of it.

        Args:
            line: what the player says now.
            max_prompt_tokens: the budget, in tokens.
            count: length of a conversation's prompt, in tokens.
            turn: what the character said and called since, and the results.
            tools: schemas of functions to offer.

        Raises:
            ContextLengthError: the line with the system prompt alone is too long.
        """
        history = mend_history(self.history)
        starts = [n for n, message in enumerate(history) if message.role == "user"]
        recent = [m.content for m in history[starts[-1] :] if m.role != "tool" and m.content] if starts else []
        scan = self._scan(line, history, max_prompt_tokens=max_prompt_tokens, count=count)
        selected = select_lore(self.world, self.card, line, history=recent)
        self.briefing = fit_briefing(
            system=self._system(scan.disabled_prompts if scan else frozenset()),
            line=line,
            history=history,
            turn=turn,
            tools=tools,
            passages=[
                *self._of_memory(line),
                *_of_lorebooks(scan),
                *map(_of_world, selected),
                *self._of_database(line, recent, {found.entry.text for found in selected}),
            ],
            max_prompt_tokens=max_prompt_tokens,
            count=count,
            lore_scan=scan,
            summarise=functools.partial(self._summary, count=_text_counter(count)),
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

    def save(self, path: Path) -> None:
        """Write the conversation, whole or not at all.

        Raises:
            SaveError: the file cannot be written.
        """
        write_document(self.to_json(), path)

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
        return cls.from_json(read_document(path), source=str(path), world=world, tools=tools)

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

    def _scan(
        self, line: str, history: Sequence[Message], *, max_prompt_tokens: int, count: Callable[[Conversation], int]
    ) -> LoreScan | None:
        """Look through the card's own lorebook and the game's."""
        books = [*([self.card.lorebook] if self.card.lorebook else []), *self.books]
        if not books:
            return None
        said = [*history, Message(role="user", content=line)]
        return scan_lorebooks(
            books,
            said,
            self.lore_state,
            count=_text_counter(count),
            char=self.card.char,
            user=self.player,
            seed=self.seed,
            settings=ScanSettings(budget_tokens=max_prompt_tokens // _LOREBOOK_SHARE),
            greeting=0,
            is_context_full=count(Conversation(messages=(self.system, *said))) > max_prompt_tokens,
        )

    @property
    def _who(self) -> str:
        """The character's name in databases."""
        return self.card.id or self.card.name

    def _of_memory(self, line: str) -> list[Passage]:
        """What the character remembers of the player; what a player said is told as a quotation."""
        facts = self.memory.recall(self.player, self._who, line) if self.memory is not None else []
        if not facts:
            return []
        text, ids = recollection(facts, self.player), ", ".join(str(fact.id) for fact in facts)
        return [Passage(source="memory", id=f"facts {ids}", title=self.player, text=text, reason=f"facts {ids}")]

    def _summary(self, turns: Sequence[Message], max_tokens: int, *, count: Callable[[str], int]) -> str:
        return summarise(turns, player=self.player, character=self.card.char, max_tokens=max_tokens, count=count)

    def _of_database(self, line: str, recent: Sequence[str], given: set[str]) -> list[Passage]:
        """Passages of the lore database that this character may know, but for those that the world gives already."""
        if self.lore is None:
            return []
        found = [one for one in self.lore.search(line, character=self._who, history=recent) if one.text not in given]
        return [
            Passage(source="lore", id=one.id, title=one.title, text=one.context, reason=one.reason) for one in found
        ]


def prompt_room(model: "Model", max_tokens: int) -> int:
    """Longest prompt, in tokens, beside an answer; the engine clamps one that may become too long."""
    limit = model.files.config.max_position_embeddings
    return max(limit - max_tokens, limit // 2)


def _guarded(
    sampling: "SamplingParams | None", talk: Conversation, count: Callable[[Conversation], int]
) -> "SamplingParams | None":
    """The guard against repetition looks at what was said; persona and lore may be repeated word by word."""
    if sampling is None or not sampling.dry_multiplier or sampling.dry_skip_tokens:
        return sampling
    given = dataclasses.replace(talk, messages=talk.messages[:1])
    return dataclasses.replace(sampling, dry_skip_tokens=count(given))


def _text_counter(count: Callable[[Conversation], int]) -> Callable[[str], int]:
    """Tokens of a text, by the length of a conversation with it."""

    def length(text: str) -> int:
        return count(Conversation(messages=(Message(role="user", content=text),)))

    return lambda text: length(text) - length("")


def _of_world(found: Selected) -> Passage:
    entry = found.entry
    reason = f"matched {', '.join(found.matched_keys)}"
    return Passage(source="world", id=entry.id, title=entry.title, text=entry.text, reason=reason)


def _of_lorebooks(scan: LoreScan | None) -> list[Passage]:
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
