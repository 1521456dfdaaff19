"""A character's session behind the API: a line in, events out. Only this module and `npc_why` know `npc.session`."""

import asyncio
import contextlib
import copy
import dataclasses
import time
import weakref
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from understudy.engine import Generation, SamplingParams
from understudy.npc.briefing import Briefing
from understudy.npc.model import Model
from understudy.npc.session import Session
from understudy.npc.world import World
from understudy.prompt import Conversation, Message, ToolCall
from understudy.server.npc_character import prompt_room
from understudy.server.npc_schema import SayToNpc
from understudy.server.npc_why import chat_messages, chat_request, lore_trace, prompt_parts
from understudy.server.problem import Problem, out_of_time
from understudy.server.schema import Tool
from understudy.tools.functions import FunctionTool
from understudy.tools.loop import Called, Event, Finished, LoopLimits, Returned, Spoken

__all__ = ["Npc", "load_npc"]

_PATIENCE_S = 2.0  # a line that was just stopped needs a moment to end
_MAX_CHARS = 256 << 10  # of what was said; its file fits the body that loads it
_CALL_TIMEOUT_S = 60.0
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "seed")


@dataclasses.dataclass
class _Turn:
    """The last line, for `why`, and when its events came."""

    said: SayToNpc
    model: weakref.ref[Model]  # one that was replaced shall not stay in memory for the sake of `why`
    sampling: SamplingParams
    history: list[Message]  # before it
    began_s: float
    deadline_s: float | None = None
    shown: Conversation | None = None
    generation: Generation | None = None
    briefing: Briefing | None = None
    first_s: float | None = None
    spoke_s: float | None = None  # the first words of the last answer
    last_s: float | None = None
    end: Finished | None = None

    def note(self, event: Event) -> None:
        now = time.monotonic()
        if self.first_s is None:
            self.first_s = now
        if isinstance(event, Spoken):
            self.spoke_s = self.spoke_s or now
            self.last_s = now
        elif isinstance(event, Returned):
            self.spoke_s = None
        elif isinstance(event, Finished):
            self.end = event


class Npc:
    """One character in one conversation; used in one event loop.

    Attributes:
        session: who speaks, and what was said.
        created: Unix time, in s.
    """

    def __init__(self, session: Session, *, tools: Sequence[Tool] = ()) -> None:
        """Offer the client's functions to a character.

        Args:
            session: the character.
            tools: schemas of functions that the client runs.
        """
        self.session = session
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
            "greeting": session.card.greeting(session.player),
            "tools": [tool.name for tool in session.offered_tools],
            "history": chat_messages(session.history),
        }

    @property
    def num_chars(self) -> int:
        """Length of what was said."""
        return sum(len(m.content) + sum(len(c.arguments) for c in m.tool_calls) for m in self.session.history)

    async def say(
        self, said: SayToNpc, model: Model, *, deadline_s: float | None = None
    ) -> AsyncGenerator[dict[str, Any]]:
        """Say a line; its events as they come: words, call, result, and at last end.

        Closing it stops the model. What was said so far is remembered.

        Args:
            said: the line, and how to answer it. Where the answer is not streamed, calls are shown and not run:
                nobody could send their results.
            model: who plays the character.
            deadline_s: after so many seconds it ends with what it has, and no call's result is waited for; None for
                never.

        Raises:
            Problem: another line is being answered, the conversation is full, or the deadline came before a word.
            UnderstudyError: the line is too long, a value is out of range, or the engine failed.
        """
        await self._acquire()
        try:
            if self.num_chars > _MAX_CHARS:
                raise Problem(409, "The conversation is full; save it, or create the character anew.", code="npc_full")
            turn, has_begun = self._new_turn(said, model), False
            turn.deadline_s = deadline_s
            arrived: asyncio.Queue[Event | None] = asyncio.Queue()
            self._task = asyncio.create_task(self._take(turn, model, arrived))
            while (event := await arrived.get()) is not None:
                if not isinstance(event, Finished):
                    yield _told(event)
                    has_begun = True
            await asyncio.wait((self._task,))
            if self._task.cancelled():
                raise Problem(409, "The character was deleted while it spoke.", code="npc_deleted")
            self._task.result()
            if not has_begun and self.session.asked[-1][1].finish_reason == "deadline":
                raise out_of_time()
            yield self._end(turn)
        finally:
            if self._task is not None:
                self._task.cancel()
                await asyncio.wait((self._task,))
                self._task = None
            self._lock.release()

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
            Problem: nothing was said yet.
        """
        with contextlib.suppress(Problem):  # still speaking: then of the line before
            await self._acquire()
            self._lock.release()
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
        turn = self._new_turn(said, model)
        session = copy.copy(self.session)  # what the line would do to it is forgotten
        turn.shown = session.conversation(
            said.line,
            max_prompt_tokens=prompt_room(model, said.max_tokens),
            count=model.count,
            tools=[tool.schema for tool in session.offered_tools],
        )
        turn.briefing = session.briefing
        return self._trace(turn, model_name, said.seed)

    def save(self) -> dict[str, Any]:
        """The session document, which `load_npc` reads."""
        return self.session.to_json()

    def _new_turn(self, said: SayToNpc, model: Model) -> _Turn:
        sampling = _sampling(said, model.default_sampling)
        return _Turn(said, weakref.ref(model), sampling, list(self.session.history), time.monotonic())

    async def _take(self, turn: _Turn, model: Model, arrived: "asyncio.Queue[Event | None]") -> None:
        """Play a turn; None ends its events."""

        def hear(event: Event) -> None:
            turn.note(event)
            arrived.put_nowait(event)

        # Rendering and encoding a long prompt takes a while; health probes must not wait for it.
        begin = asyncio.to_thread(
            self.session.asay,
            turn.said.line,
            model=model,
            sampling=turn.sampling,
            max_tokens=turn.said.max_tokens,
            limits=LoopLimits(timeout_s=min(turn.deadline_s or _CALL_TIMEOUT_S, _CALL_TIMEOUT_S)),
            deadline_s=turn.deadline_s,
            refuse=self._note_call,
            is_dry_run=not turn.said.stream,
            on_event=hear,
        )
        begun = asyncio.ensure_future(begin)
        try:
            pieces = await asyncio.shield(begun)
            async with contextlib.aclosing(pieces):
                async for _ in pieces:
                    pass
        finally:
            await asyncio.wait((begun,))  # a thread cannot be stopped: what it began is, when it is there
            if not begun.exception() and self.session.asked:
                for _, generation in self.session.asked:
                    generation.cancel()
                turn.shown, turn.generation = self.session.asked[-1]
                turn.briefing = self.session.briefing
                self._turn = turn
            arrived.put_nowait(None)

    async def _acquire(self) -> None:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await self._lock.acquire()
        except TimeoutError as error:
            message = "The character is still speaking; wait for the end, or stop it by closing that request."
            raise Problem(409, message, code="npc_busy", headers={"retry-after": "1"}) from error

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
            "text": turn.end.text,
            "reason": turn.end.reason,
            "finish_reason": "length" if last.finish_reason == "deadline" else last.finish_reason,
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
        parts = prompt_parts(shown, model.count)
        passages = next(part.pop("passages") for part in parts if part["part"] == "lore")
        return {
            "object": "npc.why",
            "line": said.line,
            "budget": {
                "context_tokens": model.files.config.max_position_embeddings,
                "limit_tokens": prompt_room(model, said.max_tokens),
                "prompt_tokens": sum(part["tokens"] for part in parts),
                "answer_tokens": said.max_tokens,
            },
            "parts": parts,
            "lore": lore_trace(self.session, briefing, said.line, turn.history, passages),
            "dropped_exchanges": briefing.num_forgotten,
            "request": chat_request(
                shown, model=model_name, sampling=turn.sampling, max_tokens=said.max_tokens, seed=seed
            ),
        }


def load_npc(document: Mapping[str, Any], *, worlds: Mapping[str, World], tools: Sequence[Tool] = ()) -> Npc:
    """Go on with a saved session.

    Args:
        document: what `Npc.save` gave.
        worlds: those whose lore is here, by id.
        tools: the client's functions.

    Raises:
        SaveError: it is damaged, foreign, or of a world that is not here.
    """
    world = worlds.get(str(document.get("world")))
    return Npc(Session.from_json(document, source="The session", world=world), tools=tools)


def _sampling(said: SayToNpc, default: SamplingParams) -> SamplingParams:
    given = {name: value for name in _SAMPLING if (value := getattr(said, name)) is not None}
    return dataclasses.replace(default, **given)


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
