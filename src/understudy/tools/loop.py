"""A character's turn with functions: the model calls, the game runs, the model speaks.

The loop decides; who asks the model and who waits for it is left to `run` and `arun`, which read the same plan.
"""

import dataclasses
import inspect
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Iterable, Mapping, Sequence
from typing import Any, Literal

from understudy.errors import ToolError
from understudy.prompt.messages import Message, ToolCall
from understudy.prompt.parse import AnswerParser
from understudy.tools.functions import FunctionTool, ToolResult, refusal

__all__ = ["Called", "EndReason", "Event", "Finished", "LoopLimits", "Returned", "Spoken", "ToolLoop"]

EndReason = Literal["answered", "rounds", "deadline", "broken", "shown"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopLimits:
    """How much a turn may do.

    Attributes:
        max_rounds: so many times the model may call before it must speak.
        max_calls: so many calls at once; those beyond are not run.
        timeout_s: after so long no function is begun and an async one is stopped; None for never. What the model
            says last is not cut by it.
        max_result_chars: longer results are cut.

    Raises:
        ToolError: a limit is below 1, or no time is left.
    """

    max_rounds: int = 4
    max_calls: int = 4
    timeout_s: float | None = 30.0
    max_result_chars: int = 2000

    def __post_init__(self) -> None:
        for name in ("max_rounds", "max_calls", "max_result_chars"):
            if getattr(self, name) < 1:
                raise ToolError(f"{name} must be at least 1, got {getattr(self, name)!r}.")
        if self.timeout_s is not None and not self.timeout_s > 0:
            raise ToolError(f"timeout_s must be above 0, or None, got {self.timeout_s!r}.")


@dataclasses.dataclass(frozen=True)
class Spoken:
    """Words, as they come."""

    text: str


@dataclasses.dataclass(frozen=True)
class Called:
    """The model calls a function; it has an id now."""

    call: ToolCall


@dataclasses.dataclass(frozen=True)
class Returned:
    """What came of it, and how long the function took."""

    call: ToolCall
    result: ToolResult
    duration_s: float = 0.0


@dataclasses.dataclass(frozen=True)
class Finished:
    """The turn is over.

    Attributes:
        text: all that was said.
        reason: "answered": the model had its say; "rounds", "deadline": a limit, and the model was asked once more,
            without tools; "broken": the same after a call that was no JSON; "shown": there are calls to look at.
        calls: those that were not run: in a dry run, or of tools without a function.
    """

    text: str
    reason: EndReason
    calls: tuple[ToolCall, ...] = ()


Event = Spoken | Called | Returned | Finished


@dataclasses.dataclass(frozen=True)
class _Ask:
    """To the driver: let the model speak; the calls come back."""

    has_tools: bool


@dataclasses.dataclass(frozen=True)
class _Run:
    """To the driver: run a function; its result comes back."""

    tool: FunctionTool
    values: Mapping[str, Any]
    timeout_s: float | None


_Plan = Generator[Event | _Ask | _Run, Any, Any]
_Schemas = tuple[Mapping[str, Any], ...]


class ToolLoop:
    """One turn; use it once.

    Whoever asks the model is given the messages of this turn so far (calls and results, well-formed) and the schemas
    to offer (none, when it is to speak), and gives the model's text in pieces, `<toolcall>` still in it. It must end.
    """

    def __init__(
        self,
        tools: Sequence[FunctionTool],
        *,
        limits: LoopLimits | None = None,
        refuse: Callable[[ToolCall, Mapping[str, Any]], str | None] | None = None,
        is_dry_run: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare a turn.

        Args:
            tools: what the character may call.
            limits: how much it may do.
            refuse: asked before a call is run, with its checked arguments; a text refuses it, and the model is told.
            is_dry_run: calls are shown, none is run.
            clock: time, in s.

        Raises:
            ToolError: two tools have one name.
        """
        self._tools = {tool.name: tool for tool in tools}
        if len(self._tools) < len(tools):
            raise ToolError("Two tools have the same name. Rename one: tool(..., name=...).")
        self._limits = limits or LoopLimits()
        self._refuse = refuse
        self._is_dry_run = is_dry_run
        self._clock = clock
        self._end_s: float | None = None
        self._done: list[Message] = []
        self._words = ""
        self._results: list[tuple[ToolCall, ToolResult]] = []
        self._num_broken_calls = 0

    @property
    def messages(self) -> tuple[Message, ...]:
        """The turn so far, for the history: each call has its result. It holds after an abort, too."""
        return (*self._done, *self._open_messages())

    @property
    def text(self) -> str:
        """All that was said so far."""
        return "\n".join(m.content for m in self.messages if m.role == "assistant" and m.content)

    def run(self, ask: Callable[[Sequence[Message], _Schemas], Iterable[str]]) -> Generator[Event]:
        """Take the turn.

        Raises:
            ToolError: a function is async and this thread runs an event loop: use `arun`.
        """
        plan = self._plan()
        reply: Any = None
        while True:
            try:
                step = plan.send(reply)
            except StopIteration:
                return
            reply = None
            if isinstance(step, _Ask):
                reply = yield from self._listen(ask(self.messages, self._offered(step)))
            elif isinstance(step, _Run):
                reply = step.tool.invoke(step.values, timeout_s=step.timeout_s)
            else:
                yield step

    async def arun(self, ask: Callable[[Sequence[Message], _Schemas], AsyncIterable[str]]) -> AsyncGenerator[Event]:
        """Take the turn in an event loop. Functions that are not async run in its thread."""
        plan = self._plan()
        reply: Any = None
        while True:
            try:
                step = plan.send(reply)
            except StopIteration:
                return
            reply = None
            if isinstance(step, _Run):
                reply = await step.tool.ainvoke(step.values, timeout_s=step.timeout_s)
            elif isinstance(step, _Ask):
                parser = AnswerParser(hides_broken_calls=True)
                pieces = ask(self.messages, self._offered(step))
                try:
                    async for piece in pieces:
                        for event in self._speak(parser.push(piece)):
                            yield event
                finally:
                    if inspect.isasyncgen(pieces):
                        await pieces.aclose()
                for event in self._speak(parser.finish()):
                    yield event
                reply = self._calls(parser)
            else:
                yield step

    def _listen(self, pieces: Iterable[str]) -> Generator[Event, None, tuple[ToolCall, ...]]:
        parser = AnswerParser(hides_broken_calls=True)
        try:
            for piece in pieces:
                yield from self._speak(parser.push(piece))
        finally:
            if inspect.isgenerator(pieces):
                pieces.close()
        yield from self._speak(parser.finish())
        return self._calls(parser)

    def _speak(self, text: str) -> Iterable[Spoken]:
        if not text:
            return ()
        is_next_line = not self._words and any(m.content for m in self._done if m.role == "assistant")
        self._words += text
        return (Spoken(f"\n{text}" if is_next_line else text),)

    def _calls(self, parser: AnswerParser) -> tuple[ToolCall, ...]:
        self._num_broken_calls = parser.num_broken_calls
        return tuple(dataclasses.replace(call, id=f"call_{secrets.token_hex(12)}") for call in parser.tool_calls)

    def _offered(self, step: _Ask) -> _Schemas:
        return tuple(tool.schema for tool in self._tools.values()) if step.has_tools else ()

    def _open_messages(self) -> list[Message]:
        """What was said and done since the last closed round."""
        if not self._words and not self._results:
            return []
        calls = tuple(call for call, _ in self._results)
        results = [Message(role="tool", content=done.text, tool_call_id=call.id) for call, done in self._results]
        return [Message(role="assistant", content=self._words, tool_calls=calls), *results]

    def _close(self) -> None:
        self._done += self._open_messages()
        self._words, self._results = "", []

    def _is_late(self) -> bool:
        return self._end_s is not None and self._clock() >= self._end_s

    def _plan(self) -> _Plan:
        if self._limits.timeout_s is not None:
            self._end_s = self._clock() + self._limits.timeout_s
        reason: EndReason = "rounds"
        for _ in range(self._limits.max_rounds if self._tools else 0):
            calls = yield _Ask(has_tools=True)
            if not calls:
                if self._num_broken_calls and not self._words:
                    reason = "broken"
                    break
                self._close()
                yield Finished(self.text, "answered")
                return
            shown = yield from self._round(calls)
            self._close()
            if shown:
                yield Finished(self.text, "shown", tuple(shown))
                return
            if self._is_late():
                reason = "deadline"
                break
        yield _Ask(has_tools=False)
        self._close()
        yield Finished(self.text, reason if self._tools else "answered")

    def _round(self, calls: Sequence[ToolCall]) -> Generator[Event | _Run, Any, list[ToolCall]]:
        """Run the calls in their order; those that are only to be shown come back."""
        shown = []
        for number, call in enumerate(calls):
            yield Called(call)
            if number >= self._limits.max_calls:
                yield Returned(call, refusal(f"At most {self._limits.max_calls} calls at once."))
                continue
            tool = self._tools.get(call.name)
            if self._is_dry_run or (tool and tool.function is None):
                shown.append(call)
                continue
            began_s = self._clock()
            result = yield from self._perform(call, tool)
            self._results.append((call, result))
            yield Returned(call, result, self._clock() - began_s)
        return shown

    def _perform(self, call: ToolCall, tool: FunctionTool | None) -> Generator[_Run, Any, ToolResult]:
        if tool is None:
            names = ", ".join(self._tools)
            return refusal(f"There is no function {call.name!r}; there is {names}.", status="invalid")
        if self._is_late():
            return refusal("There was no time left for it.")
        try:
            values = tool.read(call.arguments)
        except ToolError as error:
            return refusal(str(error), status="invalid")
        if self._refuse and (why := self._refuse(call, values)) is not None:
            return refusal(why)
        left_s = None if self._end_s is None else max(self._end_s - self._clock(), 0.0)
        result: ToolResult = yield _Run(tool, values, left_s)
        limit = self._limits.max_result_chars
        if len(result.text) > limit:
            return dataclasses.replace(result, text=f"{result.text[:limit]} ... (cut)")
        return result
