"""The model's tokens as the pieces of OpenAI's answers, whole or streamed: both are made of the same deltas."""

import asyncio
import dataclasses
import json
import secrets
import time
from collections.abc import AsyncGenerator
from typing import Any

from understudy.engine import FinishReason, Generation
from understudy.errors import UnderstudyError
from understudy.prompt import AnswerParser, ToolCall
from understudy.prompt.template import call_line
from understudy.server.problem import problem_of

__all__ = ["Answers", "Delta"]


@dataclasses.dataclass(frozen=True)
class Delta:
    """What one choice adds: words, whole tool calls, or its end."""

    index: int
    text: str = ""
    calls: tuple[ToolCall, ...] = ()
    finish_reason: str | None = None


class _Choice:
    """The reader of one generation."""

    def __init__(self, index: int, tool_names: frozenset[str], max_calls: int | None) -> None:
        self._index = index
        self._tool_names = tool_names
        self._max_calls = max_calls
        self._parser = AnswerParser()
        self._num_read = 0
        self._num_calls = 0
        self._has_text = False

    def read(self, text: str, reason: FinishReason | None) -> Delta:
        spoken = self._parser.push(text)
        if reason is not None:
            spoken += self._parser.finish()
        calls = []
        found = self._parser.tool_calls[self._num_read :]
        self._num_read += len(found)
        for call in found:
            if call.name not in self._tool_names:  # a function that nobody offered is only words
                spoken += ("\n" if self._has_text or spoken else "") + call_line(call)
            elif self._max_calls is None or self._num_calls < self._max_calls:
                self._num_calls += 1
                calls.append(dataclasses.replace(call, id=f"call_{secrets.token_hex(12)}"))
        self._has_text = self._has_text or bool(spoken)
        finish = "tool_calls" if reason == "stop" and self._num_calls else reason
        return Delta(self._index, spoken, tuple(calls), finish)


class Answers:
    """All choices of one request.

    Attributes:
        id: "chatcmpl-...".
        created: Unix time, in s.
        model: the name that the client asked for.
    """

    def __init__(
        self,
        generations: list[Generation],
        *,
        model: str,
        tool_names: frozenset[str] = frozenset(),
        max_calls: int | None = None,
    ) -> None:
        """Read what the engine makes.

        Args:
            generations: one a choice.
            model: name to answer under.
            tool_names: functions that were offered.
            max_calls: at most so many calls a choice; None: no limit.
        """
        self.id = f"chatcmpl-{secrets.token_hex(16)}"
        self.created = int(time.time())
        self.model = model
        self._generations = generations
        self._choices = [_Choice(n, tool_names, max_calls) for n in range(len(generations))]

    def cancel(self) -> None:
        """Stop the model's work on this request."""
        for generation in self._generations:
            generation.cancel()

    def usage(self) -> dict[str, int]:
        """Tokens so far; the prompt counts once."""
        prompt = self._generations[0].usage.prompt_tokens
        completion = sum(generation.usage.completion_tokens for generation in self._generations)
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}

    async def deltas(self) -> AsyncGenerator[Delta]:
        """The choices' deltas in the order in which they come, none empty.

        Raises:
            EngineError: a generation failed.
        """
        arrived: asyncio.Queue[Delta | BaseException] = asyncio.Queue()

        def report(task: "asyncio.Task[None]") -> None:
            if not task.cancelled() and (error := task.exception()):
                arrived.put_nowait(error)

        tasks = [asyncio.create_task(self._read(n, arrived)) for n in range(len(self._generations))]
        for task in tasks:
            task.add_done_callback(report)
        num_open = len(tasks)
        try:
            while num_open:
                delta = await arrived.get()
                if isinstance(delta, BaseException):
                    raise delta
                num_open -= delta.finish_reason is not None
                yield delta
        finally:
            self.cancel()
            for task in tasks:
                task.cancel()

    async def _read(self, index: int, arrived: "asyncio.Queue[Delta | BaseException]") -> None:
        async for chunk in self._generations[index]:
            delta = self._choices[index].read(chunk.text, chunk.finish_reason)
            if delta.text or delta.calls or delta.finish_reason:
                arrived.put_nowait(delta)

    async def whole(self) -> dict[str, Any]:
        """The complete answer.

        Raises:
            EngineError: a generation failed.
        """
        texts = [""] * len(self._generations)
        calls: list[list[ToolCall]] = [[] for _ in texts]
        reasons: list[str | None] = [None] * len(texts)
        async for delta in self.deltas():
            texts[delta.index] += delta.text
            calls[delta.index] += delta.calls
            reasons[delta.index] = delta.finish_reason
        choices = [
            {
                "index": n,
                "message": _message(texts[n], calls[n]),
                "logprobs": None,
                "finish_reason": reasons[n],
            }
            for n in range(len(texts))
        ]
        return {**self._head("chat.completion"), "choices": choices, "usage": self.usage()}

    async def events(self, *, has_usage: bool) -> AsyncGenerator[str]:
        """Server-sent events; a failure in their midst is told by one of them.

        Args:
            has_usage: end with an event that counts the tokens.

        Raises:
            EngineError: a generation failed before the first event.
        """
        opened = [False] * len(self._generations)
        num_calls = [0] * len(self._generations)
        try:
            async for delta in self.deltas():
                if not opened[delta.index]:
                    opened[delta.index] = True
                    yield self._event(delta.index, {"role": "assistant", "content": ""}, has_usage=has_usage)
                if delta.text:
                    yield self._event(delta.index, {"content": delta.text}, has_usage=has_usage)
                for call in delta.calls:
                    for part in _call_parts(call, num_calls[delta.index]):
                        yield self._event(delta.index, {"tool_calls": [part]}, has_usage=has_usage)
                    num_calls[delta.index] += 1
                if delta.finish_reason:
                    yield self._event(delta.index, {}, has_usage=has_usage, finish_reason=delta.finish_reason)
        except UnderstudyError as error:
            if not any(opened):
                raise
            yield _event(problem_of(error).to_json(is_in_stream=True))
        else:
            if has_usage:
                yield _event({**self._head("chat.completion.chunk"), "choices": [], "usage": self.usage()})
        yield "data: [DONE]\n\n"

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _event(self, index: int, delta: dict[str, Any], *, has_usage: bool, finish_reason: str | None = None) -> str:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        usage = {"usage": None} if has_usage else {}
        return _event({**self._head("chat.completion.chunk"), "choices": [choice], **usage})


def _message(text: str, calls: list[ToolCall]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text if text or not calls else None, "refusal": None}
    if calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in calls
        ]
    return message


def _call_parts(call: ToolCall, number: int) -> list[dict[str, Any]]:
    """Name and id once, then the arguments: clients join what comes twice."""
    head = {"index": number, "id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}}
    return [head, {"index": number, "function": {"arguments": call.arguments}}]


def _event(value: dict[str, Any]) -> str:
    # ASCII: some clients take U+2028 inside a string for the end of a line.
    return f"data: {json.dumps(value, separators=(',', ':'))}\n\n"
