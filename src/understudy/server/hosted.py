"""A character behind the API: a line in, events out, on the same `Npc` that a game in Python holds."""

import asyncio
import contextlib
import copy
import dataclasses
import functools
import json
import math
import time
import weakref
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import Any

from understudy.engine import Generation, KvPages, SamplingParams
from understudy.npc.briefing import Briefing
from understudy.npc.model import Model
from understudy.npc.npc import Npc, NpcOptions
from understudy.npc.session import Session
from understudy.npc.shown import prompt_room
from understudy.npc.state import StateSize
from understudy.prompt import Conversation, Message, ToolCall
from understudy.server.npc_schema import SayToNpc, Speech
from understudy.server.npc_why import chat_messages, chat_request, lore_trace, prompt_parts
from understudy.server.problem import Problem, out_of_time
from understudy.server.sampling import dry_breakers
from understudy.server.schema import Tool
from understudy.server.session_folder import SessionFolder
from understudy.tools.functions import FunctionTool
from understudy.tools.loop import Called, Event, Finished, LoopLimits, Returned, Spoken

__all__ = ["HostedNpc"]

_PATIENCE_S = 2.0  # a line that was just stopped needs a moment to end
_MAX_CHARS = 256 << 10  # of what was said; its file fits the body that loads it
_CALL_TIMEOUT_S = 60.0
_MAX_TOKENS = 120
_SAMPLING = (
    *("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty"),
    *("dry_multiplier", "dry_base", "dry_allowed_length"),
)


@dataclasses.dataclass
class _Turn:
    """The last line, for `why`, and when its events came."""

    said: SayToNpc
    model: weakref.ref[Model]  # one that was replaced shall not stay in memory for the sake of `why`
    options: NpcOptions
    history: list[Message]  # before it
    began_s: float
    interval_s: float = 0.0
    shown: Conversation | None = None
    generation: Generation | None = None
    briefing: Briefing | None = None
    first_s: float | None = None
    spoke_s: float | None = None  # the first words of the last answer
    last_s: float | None = None
    end: Finished | None = None
    fallback: str | None = None

    def note(self, event: Event) -> None:
        now = time.monotonic()
        if self.first_s is None:
            self.first_s = now
        if isinstance(event, Spoken) and self.end is not None:
            self.fallback = event.text
        elif isinstance(event, Spoken):
            self.spoke_s = self.spoke_s or now
            self.last_s = now
        elif isinstance(event, Returned):
            self.spoke_s = None
        elif isinstance(event, Finished):
            self.end = event


class HostedNpc:
    """One character in one conversation; used in one event loop.

    Attributes:
        session: who speaks, and what was said.
        options: how it answers, where a line says nothing else.
        created: Unix time, in s.
    """

    def __init__(self, session: Session, *, tools: Sequence[Tool] = (), options: Speech | None = None) -> None:
        """Offer the client's functions to a character.

        Args:
            session: the character.
            tools: schemas of functions that the client runs.
            options: how it answers.
        """
        self.session, self.options = session, options or Speech()
        self.created = int(time.time())
        self._turn: _Turn | None = None
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._called: ToolCall | None = None
        self._results: dict[str, asyncio.Future[str]] = {}
        session.tools = tuple(map(self._remote, tools))

    def to_json(self) -> dict[str, Any]:
        """What clients are told of it."""
        session = self.session
        return {
            "object": "npc",
            "created": self.created,
            "character": {"id": session.card.id or None, "name": session.card.name, "role": session.card.role or None},
            "player": session.player,
            "world": session.world.id if session.world else None,
            "memory": {"player": session.player, "character": session.who} if session.memory is not None else None,
            "greeting": session.card.greeting(session.player, seed=session.seed),
            "tools": [tool.name for tool in session.offered_tools],
            "options": self.options.model_dump(exclude_none=True),
            "history": chat_messages(session.history),
        }

    @property
    def num_bytes(self) -> int:
        """Of its card and its lorebooks."""
        documents = [self.session.card.to_json(), *(dict(book.raw) for book in self.session.books)]
        return sum(len(json.dumps(document)) for document in documents)

    @property
    def num_chars(self) -> int:
        """Length of what was said."""
        return sum(len(m.content) + sum(len(c.arguments) for c in m.tool_calls) for m in self.session.history)

    async def say(
        self, said: SayToNpc, model: Model, *, max_s: float, interval_s: float = 0.0
    ) -> AsyncGenerator[dict[str, Any]]:
        """Say a line; its events as they come: words, call, result, and at last end.

        Closing it stops the model. What was said so far is remembered.

        Args:
            said: the line, and how to answer it. Where the answer is not streamed, calls are shown and not run:
                nobody could send their results.
            model: who plays the character.
            max_s: the line ends after so many seconds, whatever it asks for.
            interval_s: words that come within so many seconds of the last ones, the first apart, are one event.

        Raises:
            Problem: another line is being answered, the conversation is full, or `max_s` came before a word.
            UnderstudyError: the line is too long, a value is out of range, or the engine failed.
        """
        async with self._alone():
            if self.num_chars > _MAX_CHARS:
                raise Problem(409, "The conversation is full; save it, or create the character anew.", code="npc_full")
            turn = await asyncio.to_thread(self._new_turn, said, model, max_s)
            arrived: asyncio.Queue[Event | None] = asyncio.Queue()
            has_begun = False
            turn.interval_s = interval_s if said.stream else math.inf
            self._task = asyncio.create_task(self._take(turn, model, arrived))
            try:
                while (event := await arrived.get()) is not None:
                    if not isinstance(event, Finished):
                        has_begun = True
                        yield _told(event)
                await asyncio.wait((self._task,))
                if self._task.cancelled():
                    raise Problem(409, "The character was deleted while it spoke.", code="npc_deleted")
                self._task.result()
                if not has_begun and self.session.asked[-1][1].finish_reason == "deadline":
                    raise out_of_time()
                yield self._end(turn)
            finally:
                self._task.cancel()
                await asyncio.wait((self._task,))
                self._task = None

    def stop(self) -> None:
        """End the line that is being answered, if any."""
        if self._task is not None:
            self._task.cancel()

    def answer_call(self, call_id: str, content: str) -> bool:
        """Give what a function gave; False where no such call waits."""
        result = self._results.get(call_id)
        if result is None or result.done():
            return False
        result.set_result(content)
        return True

    async def why(self, model_name: str) -> dict[str, Any]:
        """What the model was shown for the last line that ended, and why; a line that was just stopped is waited for.

        Raises:
            Problem: nothing was said yet, or the model was replaced since.
        """
        with contextlib.suppress(Problem):  # still speaking: then of the line before
            async with self._alone():
                pass
        turn = self._turn
        if turn is None or turn.generation is None:
            raise Problem(409, "Nothing was said yet; say a line first.", code="npc_silent")
        # It reads the prompt again; health probes must not wait for it.
        trace = await asyncio.to_thread(self._trace, turn, model_name, turn.generation.seed)
        trace["budget"]["cached_tokens"] = turn.generation.usage.cached_tokens
        return trace

    def preview(self, said: SayToNpc, model: Model, model_name: str) -> dict[str, Any]:
        """Like `why`, of a line that is not said.

        Raises:
            UnderstudyError: the line is too long, or a value is out of range.
        """
        turn = self._new_turn(said, model, None)
        session = copy.copy(self.session)  # what the line would do to it is forgotten
        turn.shown = session.conversation(
            said.line,
            max_prompt_tokens=prompt_room(model, turn.options.max_tokens),
            count=model.count,
            tools=[tool.schema for tool in session.offered_tools],
        )
        turn.briefing = session.briefing
        return self._trace(turn, model_name, said.seed)

    async def warm(self, model: Model) -> None:
        """See `Npc.warm`.

        Raises:
            Problem: a line is being answered.
        """
        async with self._alone():
            await self._seated(model).awarm()

    async def saved_size(self, model: Model, *, with_kv: bool, kv_share: float | None) -> StateSize:
        """See `Npc.saved_size`.

        Raises:
            Problem: a line is being answered.
            RequestError: `kv_share` is out of range.
        """
        async with self._alone():
            return await asyncio.to_thread(self._seated(model).saved_size, with_kv=with_kv, kv_share=kv_share)

    async def save(self, path: Path, model: Model, *, with_kv: bool, kv_share: float | None) -> int:
        """See `Npc.save`.

        Raises:
            Problem: a line is being answered.
            SaveError: the file cannot be written.
        """
        async with self._alone():
            return await asyncio.to_thread(self._seated(model).save, path, with_kv=with_kv, kv_share=kv_share)

    async def keep(
        self,
        folder: SessionFolder,
        owner: str,
        model: Model,
        *,
        with_kv: bool,
        kv_share: float | None,
        session_id: str | None,
    ) -> dict[str, Any]:
        """Save into a folder; what it tells of that.

        Args:
            folder: where to.
            owner: whose it is.
            model: who plays the character.
            with_kv: also what the model read of it.
            kv_share: how much of that; see `Npc.save`.
            session_id: of a save to replace.

        Raises:
            Problem: a line is being answered, there is no such save, or no room.
            SaveError: the file cannot be written.
        """
        npc = self._seated(model)
        card = self.session.card
        about = {
            "character": {"id": card.id or None, "name": card.name},
            "player": self.session.player,
            "world": self.session.world.id if self.session.world else None,
            "lines": sum(message.role == "user" for message in self.session.history),
            "with_kv": with_kv,
        }

        def work() -> dict[str, Any]:
            size = npc.saved_size(with_kv=with_kv, kv_share=kv_share).total_bytes
            save = functools.partial(npc.save, with_kv=with_kv, kv_share=kv_share)
            return folder.keep(owner, about, save, num_bytes=size, session_id=session_id)

        async with self._alone():
            return await asyncio.to_thread(work)

    async def restore(self, model: Model, kv: KvPages) -> None:
        """Put back what the model had read of the conversation; see `state.restore_kv`.

        Args:
            model: who plays the character.
            kv: of a file that this server wrote: others could say anything, and all characters share the cache.
        """
        num_cached = await asyncio.to_thread(model.engine.import_prefix, kv)
        if num_cached < kv.start:
            await model.engine.warm(kv.token_ids[: kv.start], priority=0).atext()
            await asyncio.to_thread(model.engine.import_prefix, kv)

    def _seated(self, model: Model) -> Npc:
        """At this model, for one thing: it may be replaced before the next."""
        return Npc(model, self.session, NpcOptions(max_tokens=self.options.max_tokens or _MAX_TOKENS))

    def _new_turn(self, said: SayToNpc, model: Model, max_s: float | None) -> _Turn:
        options = _options(self.options, said, model, max_s)
        options = dataclasses.replace(options, refuse=self._note_call)
        return _Turn(said, weakref.ref(model), options, list(self.session.history), time.monotonic())

    async def _take(self, turn: _Turn, model: Model, arrived: "asyncio.Queue[Event | None]") -> None:
        """Play a turn; None ends its events."""

        def hear(event: Event) -> None:
            turn.note(event)
            if isinstance(event, Spoken) and turn.end is None:  # words of the generation asked last
                self.session.asked[-1][1].chunk_interval_s = turn.interval_s
            arrived.put_nowait(event)

        asked_before = self.session.asked
        pieces = Npc(model, self.session, turn.options).asay(
            turn.said.line, remember=turn.said.remember, is_dry_run=not turn.said.stream, on_event=hear
        )
        try:
            async with contextlib.aclosing(pieces):
                async for _ in pieces:
                    pass
        finally:
            asked = self.session.asked
            if asked and asked is not asked_before:
                turn.shown, turn.generation = asked[-1]
                turn.briefing = self.session.briefing
                self._turn = turn
            arrived.put_nowait(None)

    @contextlib.asynccontextmanager
    async def _alone(self) -> AsyncGenerator[None]:
        """While nothing else is done with the character.

        Raises:
            Problem: 409, it is still speaking.
        """
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await self._lock.acquire()
        except TimeoutError as error:
            message = "The character is still speaking; wait for the end, or stop it by closing that request."
            raise Problem(409, message, code="npc_busy", headers={"retry-after": "1"}) from error
        try:
            yield
        finally:
            self._lock.release()

    def _remote(self, schema: Tool) -> FunctionTool:
        """A function that the client runs: it waits for `answer_call`."""

        async def wait(**_values: Any) -> str:
            assert self._called is not None
            call_id = self._called.id
            self._results[call_id] = asyncio.get_running_loop().create_future()
            try:
                return await self._results[call_id]
            finally:
                del self._results[call_id]

        function = schema.function
        return FunctionTool(
            name=function.name,
            description=function.description or "",
            schema=schema.to_json(),
            function=wait,
        )

    def _note_call(self, call: ToolCall, _values: Mapping[str, Any]) -> None:
        """Asked before each call is run; refuses none."""
        self._called = call

    def _end(self, turn: _Turn) -> dict[str, Any]:
        assert turn.end is not None
        generations = [generation for _, generation in self.session.asked]
        last = generations[-1]
        spoken_s = turn.last_s - turn.spoke_s if turn.last_s and turn.spoke_s else 0.0
        num_spoken = last.usage.completion_tokens - 1
        now = time.monotonic()
        return {
            "type": "end",
            "text": turn.end.text if turn.fallback is None else turn.fallback,
            "reason": turn.end.reason,
            "finish_reason": "length" if last.finish_reason == "deadline" else last.finish_reason,
            "is_fallback": turn.fallback is not None,
            "calls": [{"id": c.id, "name": c.name, "arguments": c.arguments} for c in turn.end.calls],
            "seed": last.seed,
            "usage": {
                "prompt_tokens": last.usage.prompt_tokens,
                "cached_tokens": last.usage.cached_tokens,
                "completion_tokens": sum(generation.usage.completion_tokens for generation in generations),
                "rounds": len(generations),
            },
            "timing": {
                "first_token_s": round((turn.first_s or now) - turn.began_s, 6),
                "total_s": round(now - turn.began_s, 6),
                "tokens_per_s": round(num_spoken / spoken_s, 1) if spoken_s > 0 and num_spoken > 0 else None,
            },
        }

    def _trace(self, turn: _Turn, model_name: str, seed: int | None) -> dict[str, Any]:
        said, model, briefing, shown = turn.said, turn.model(), turn.briefing, turn.shown
        if model is None:
            raise Problem(409, "The model was reloaded since the last line; say another first.", code="npc_silent")
        assert briefing is not None
        assert shown is not None
        assert turn.options.sampling is not None
        parts = prompt_parts(shown, model.count)
        passages = next(part.pop("passages") for part in parts if part["part"] == "lore")
        max_tokens = turn.options.max_tokens
        return {
            "object": "npc.why",
            "line": said.line,
            "budget": {
                "context_tokens": model.files.config.max_position_embeddings,
                "limit_tokens": prompt_room(model, max_tokens),
                "prompt_tokens": sum(part["tokens"] for part in parts),
                "answer_tokens": max_tokens,
            },
            "parts": parts,
            "lore": lore_trace(self.session, briefing, said.line, turn.history, passages),
            "notes": list(briefing.notes),
            "dropped_exchanges": briefing.num_forgotten,
            "request": chat_request(
                shown,
                model=model_name,
                sampling=turn.options.sampling,
                max_tokens=max_tokens,
                seed=seed,
                breakers=said.dry_sequence_breakers or self.options.dry_sequence_breakers,
            ),
        }


def _options(usual: Speech, said: SayToNpc, model: Model, max_s: float | None) -> NpcOptions:
    """A line's own values, the character's where it has none, and the model's where neither has.

    Raises:
        RequestError: a value is out of range.
    """

    def value(name: str) -> Any:
        own = getattr(said, name)
        return getattr(usual, name) if own is None else own

    given = {name: found for name in _SAMPLING if (found := value(name)) is not None}
    if (texts := value("dry_sequence_breakers")) is not None:
        given["dry_breakers"] = dry_breakers(model, texts)
    sampling: SamplingParams = dataclasses.replace(model.character_sampling, seed=said.seed, **given)
    own_s, fallback = value("deadline_s"), value("fallback")
    is_own = own_s is not None and (max_s is None or own_s <= max_s)
    deadline_s = own_s if is_own else max_s
    rounds = {name: found for name in ("max_rounds", "max_calls") if (found := value(name)) is not None}
    return NpcOptions(
        sampling=sampling,
        max_tokens=value("max_tokens") or _MAX_TOKENS,
        limits=LoopLimits(timeout_s=min(deadline_s or _CALL_TIMEOUT_S, _CALL_TIMEOUT_S), **rounds),
        deadline_s=deadline_s,
        # Where the server itself has no time, the client is told so.
        fallback=(tuple(fallback) if fallback else NpcOptions().fallback) if is_own else None,
    )


def _told(event: Spoken | Called | Returned) -> dict[str, Any]:
    if isinstance(event, Spoken):
        return {"type": "words", "text": event.text}
    call = {"id": event.call.id, "name": event.call.name}
    if isinstance(event, Called):
        return {"type": "call", **call, "arguments": event.call.arguments}
    return {
        "type": "result",
        **call,
        "content": event.result.text,
        "status": event.result.status,
        "duration_s": round(event.duration_s, 6),
    }
