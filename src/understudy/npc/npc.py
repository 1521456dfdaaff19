"""A character at the game's side: one object, used from any thread, that speaks, remembers, explains and is saved."""

import asyncio
import contextlib
import dataclasses
import itertools
import secrets
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from understudy.errors import RequestError
from understudy.npc.briefing import Briefing
from understudy.npc.card import Card
from understudy.npc.session import Session
from understudy.npc.shown import prompt_room
from understudy.npc.state import KV_SHARE, RandomState, StateSize, kv_limit, planned_size, save_state
from understudy.prompt import Conversation, Message, ToolCall
from understudy.tools.loop import Event, LoopLimits, Spoken

if TYPE_CHECKING:
    from understudy.engine import Generation, SamplingParams
    from understudy.npc.model import Model

__all__ = ["Answer", "Npc", "NpcOptions"]

Refuse = Callable[[ToolCall, Mapping[str, Any]], str | None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class NpcOptions:
    """How a character answers.

    Attributes:
        sampling: how tokens are drawn; None: the model's own, with a guard against repetition.
        max_tokens: longest answer, in tokens.
        limits: how much a turn may do.
        refuse: may refuse a call before it is run; see `ToolLoop`.
        deadline_s: a line ends after so many seconds with what it has; None for never.
        fallback: what the character says, one of these in turn, where a deadline left it without a word; None for
            nothing, and the line leaves no trace then.

    Raises:
        RequestError: a value is out of range.
    """

    sampling: "SamplingParams | None" = None
    max_tokens: int = 120
    limits: LoopLimits | None = None
    refuse: Refuse | None = None
    deadline_s: float | None = None
    fallback: tuple[str, ...] | None = ("...",)

    def __post_init__(self) -> None:
        if self.deadline_s is not None and not self.deadline_s > 0:
            raise RequestError(f"deadline_s must be above 0, got {self.deadline_s!r}.", param="deadline_s")
        if self.fallback is not None and not (self.fallback and all(self.fallback)):
            raise RequestError(f"fallback must be lines that are not empty, got {self.fallback!r}.", param="fallback")


class Answer(Iterator[str]):
    """What a character says, in pieces as they come; read it to the end, or close it to stop the model."""

    def __init__(self, pieces: Generator[str], stop: Callable[[], None], release: Callable[[], None]) -> None:
        self._pieces, self._stop, self._release = pieces, stop, release
        self._lock = threading.RLock()
        self._is_reading = self._is_closed = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        with self._lock:
            try:
                self._is_reading = True
                try:
                    piece = next(self._pieces)
                finally:
                    self._is_reading = False
                if self._is_closed:  # by a hook, or another thread that waits for this one
                    raise StopIteration
            except BaseException:
                self.close()
                raise
            return piece

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Stop, from any thread; what was said so far is remembered. The character may then be spoken to again.

        Where a function or a hook of this answer calls it, the answer ends as soon as that returns.
        """
        self._is_closed = True
        self._stop()
        with self._lock:
            if self._is_reading:  # further up in this thread
                return
            try:
                self._pieces.close()
            finally:
                self._release()

    def text(self) -> str:
        """All of it, waiting for the end."""
        return "".join(self)


class Npc:
    """A character, made by `Model.npc`. Safe from any thread; it answers one line at a time.

    Attributes:
        session: who speaks, with whom, and what was said.
        options: how it answers.
    """

    def __init__(self, model: "Model", session: Session, options: NpcOptions | None = None) -> None:
        """Seat a character at a model.

        Args:
            model: who plays it.
            session: the conversation; it gets a random seed if it has none.
            options: how it answers.
        """
        self.session, self.options = session, options or NpcOptions()
        if session.random is None:
            session.random = RandomState(seed=secrets.randbits(62))
        self._model = model
        self._lock = threading.Lock()

    @property
    def card(self) -> Card:
        """Who it is."""
        return self.session.card

    @property
    def greeting(self) -> str:
        """What it says first; empty where its card does not tell."""
        return self.card.greeting(self.session.player, seed=self.session.seed)

    @property
    def history(self) -> tuple[Message, ...]:
        """What was said, and done."""
        return tuple(self.session.history)

    def say(
        self,
        line: str,
        *,
        remember: bool = True,
        deadline_s: float | None = None,
        options: NpcOptions | None = None,
        is_dry_run: bool = False,
        on_event: Callable[[Event], None] | None = None,
    ) -> Answer:
        """Say a line to the character: `for piece in npc.say("Good evening!"):`.

        Args:
            line: what the player says.
            remember: False leaves no trace: neither the line nor the answer is known afterwards.
            deadline_s: of this line; default: the options'.
            options: of this line; default: the character's.
            is_dry_run: calls of functions are shown to `on_event`, none is run.
            on_event: is told of words, calls, results and the end as they come; of a fallback after the end.

        Raises:
            ContextLengthError: the line is too long.
            RequestError: the character is still speaking, or a value is out of range.
        """
        turn, arguments = self._begin(options, remember=remember, deadline_s=deadline_s)
        try:
            pieces = self.session.say(line, is_dry_run=is_dry_run, on_event=on_event, **arguments)
        except BaseException:
            turn.end()
            raise
        asked = self.session.asked

        def stop() -> None:
            for _, generation in tuple(asked):
                generation.cancel()

        return Answer(self._spoken(pieces, turn, line, on_event), stop, turn.end)

    async def asay(
        self,
        line: str,
        *,
        remember: bool = True,
        deadline_s: float | None = None,
        options: NpcOptions | None = None,
        is_dry_run: bool = False,
        on_event: Callable[[Event], None] | None = None,
    ) -> AsyncGenerator[str]:
        """Like `say`, in an event loop: `async for piece in npc.asay(...)`; on functions see `Session.asay`."""
        turn, arguments = self._begin(options, remember=remember, deadline_s=deadline_s)
        has_words = False
        try:
            pieces = self.session.asay(line, is_dry_run=is_dry_run, on_event=on_event, **arguments)
            async with contextlib.aclosing(pieces):
                async for piece in pieces:
                    has_words = has_words or bool(piece.strip())
                    yield piece
            if not has_words and turn.is_late and turn.fallback is not None:
                yield self._fall_back(line, turn, turn.fallback, on_event)
        finally:
            turn.end()

    def warm(self) -> "Generation":
        """Read the persona and what was said now, while nobody waits, so that the next line costs only what is new.

        Returns:
            At once; its `text()` waits until all is read, its `cancel()` ends it.

        Raises:
            EngineError: the model is closed.
        """
        return self._model.engine.warm(self._shared_ids())

    async def awarm(self) -> None:
        """Like `warm`, waiting until all is read."""
        await (await asyncio.to_thread(self.warm)).atext()

    def why(self) -> Briefing | None:
        """What the model was shown for the last line, what was left out, and why; None before the first."""
        return self.session.briefing

    def saved_size(self, *, with_kv: bool = False, kv_share: float | None = KV_SHARE) -> StateSize:
        """How large a file `save` would write at most, before anything is copied.

        Raises:
            RequestError: `kv_share` is out of range.
        """
        ids, start = self._saved_ids() if with_kv else ([], 0)
        limit = self._kv_limit(len(ids) - start, kv_share)
        return planned_size(
            self.session.to_json(), engine=self._model.engine, token_ids=ids, start=start, max_kv_bytes=limit
        )

    def save(self, path: str | Path, *, with_kv: bool = False, kv_share: float | None = KV_SHARE) -> int:
        """Write what was said, chance, and what lorebooks remember; whole or not at all.

        Args:
            path: where to.
            with_kv: also what the model read of it, so that it need not read it again; see `saved_size`.
            kv_share: how much of that: its bytes are at most so many times those of the plain 8-bit keys and values of
                all that was said. The beginning of it is kept, the model reads the rest again; None for all.

        Returns:
            The file's size, in bytes.

        Raises:
            SaveError: the file cannot be written.
            CardError: the card's lorebook was changed in code.
            RequestError: the character is still speaking, or `kv_share` is out of range.
        """
        self._acquire()
        try:
            ids, start = self._saved_ids() if with_kv else ([], 0)
            limit = self._kv_limit(len(ids) - start, kv_share)
            most = None if limit is None else 2 * limit  # no page shrinks to less than a half of it
            kv = self._model.engine.export_prefix(ids, start=start, max_bytes=most) if ids else None
            fingerprint = self._model.fingerprint
            return save_state(Path(path), self.session.to_json(), fingerprint=fingerprint, kv=kv, max_kv_bytes=limit)
        finally:
            self._lock.release()

    def _begin(
        self, options: NpcOptions | None, *, remember: bool, deadline_s: float | None
    ) -> tuple["_Turn", dict[str, Any]]:
        """Take the turn; also the arguments for `Session.say`."""
        options = options or self.options
        if deadline_s is not None:
            options = dataclasses.replace(options, deadline_s=deadline_s)
        sampling = options.sampling or self._model.character_sampling
        self._acquire()
        random = self.session.random
        assert random is not None
        if sampling.seed is None:
            sampling = dataclasses.replace(sampling, seed=random.next_seed())
        until_s = None if options.deadline_s is None else time.monotonic() + options.deadline_s
        lines = options.fallback
        fallback = lines[len(self.session.history) % len(lines)] if lines else None
        turn = _Turn(
            self._lock,
            num_before=len(self.session.history),
            until_s=until_s,
            remember=remember,
            fallback=fallback,
        )
        return turn, {
            "model": self._model,
            "sampling": sampling,
            "max_tokens": options.max_tokens,
            "limits": options.limits,
            "refuse": options.refuse,
            "deadline_s": options.deadline_s,
            "remember": remember,
        }

    def _acquire(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise RequestError(
                f"{self.card.name} is still speaking: read that answer to its end, or close it, and say this then."
            )

    def _spoken(
        self, pieces: Generator[str], turn: "_Turn", line: str, on_event: Callable[[Event], None] | None
    ) -> Generator[str]:
        has_words = False
        try:
            for piece in pieces:
                has_words = has_words or bool(piece.strip())
                yield piece
        finally:
            pieces.close()
        if not has_words and turn.is_late and turn.fallback is not None:
            yield self._fall_back(line, turn, turn.fallback, on_event)

    def _fall_back(self, line: str, turn: "_Turn", said: str, on_event: Callable[[Event], None] | None) -> str:
        """The scripted line; the character has said it, and remembers that."""
        history = self.session.history
        if turn.remember and len(history) == turn.num_before:
            self.session.commit(line, said)
        elif turn.remember:
            history.append(Message(role="assistant", content=said))
        if on_event:
            on_event(Spoken(said))
        return said

    def _shared_ids(self, contexts: Sequence[str] = ()) -> list[int]:
        """Tokens that every next prompt begins with, as far as can be told now."""
        ids = self._beginning(self.session.history, contexts)
        if len(ids) <= prompt_room(self._model, self.options.max_tokens):
            return ids
        return self._beginning((), ())  # what goes for want of room is told by the next line

    def _beginning(self, history: Sequence[Message], contexts: Sequence[str]) -> list[int]:
        one, other = (
            self._model.encode(
                Conversation(
                    messages=(self.session.system, *history, Message(role="user", content=line)),
                    tools=tuple(tool.schema for tool in self.session.offered_tools),
                    contexts=tuple(contexts),
                )
            )
            for line in ("a", "b")
        )
        return one[: _common(one, other)]

    def _kv_limit(self, num_tokens: int, share: float | None) -> int | None:
        return kv_limit(self._model.files.config, num_tokens, share)

    def _saved_ids(self) -> tuple[list[int], int]:
        """Tokens of the conversation, and how many of them are the persona, which others share."""
        contexts: Sequence[str] = ()
        if briefing := self.session.briefing:  # of a line that shall leave no trace, the contexts would tell
            lines = ([m for m in said if m.role == "user"] for said in (self.history, briefing.conversation.messages))
            remembered, shown = lines
            contexts = briefing.conversation.contexts if remembered[-1:] == shown[-1:] else ()
        ids = self._shared_ids(contexts)
        persona = self._model.encode(Conversation(messages=(self.session.system,)))
        return ids, _common(ids, persona)


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How long two sequences are the same from their beginning on."""
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return sum(1 for _ in same)


class _Turn:
    """A line that is being answered; its end lets the next one begin."""

    def __init__(
        self, lock: threading.Lock, *, num_before: int, until_s: float | None, remember: bool, fallback: str | None
    ) -> None:
        self._lock, self._is_over = lock, False
        self._until_s = until_s
        self.num_before, self.remember, self.fallback = num_before, remember, fallback

    @property
    def is_late(self) -> bool:
        return self._until_s is not None and time.monotonic() >= self._until_s

    def end(self) -> None:
        """May be called again."""
        if not self._is_over:
            self._is_over = True
            self._lock.release()
