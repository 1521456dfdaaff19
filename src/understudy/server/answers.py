"""The model's text as the pieces of OpenAI's answers, whole or streamed: both are made of the same deltas."""

import asyncio
import contextlib
import dataclasses
import json
import math
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, Literal

from understudy.engine import Generation
from understudy.errors import UnderstudyError
from understudy.server.logprobs import WordLogprobs
from understudy.server.problem import Problem, out_of_time, problem_of
from understudy.server.reading import CallPart, Reader, WordsReader

__all__ = ["Answers", "Delta", "event_text"]

_encode = json.JSONEncoder(separators=(",", ":")).encode


@dataclasses.dataclass(frozen=True)
class Delta:
    """What one choice adds: words, parts of tool calls, or its end; how likely the words' tokens were."""

    index: int
    text: str = ""
    parts: tuple[CallPart, ...] = ()
    finish_reason: str | None = None
    logprobs: tuple[dict[str, Any], ...] = ()


class Answers:
    """All choices of one request.

    Attributes:
        id: "chatcmpl-...".
        created: Unix time, in s.
        model: the name that the client asked for.
        generations: one a choice.
        reasons: why choices ended, by their number; those that did.
    """

    def __init__(
        self,
        generations: list[Generation],
        *,
        model: str,
        new_reader: Callable[[], Reader] = WordsReader,
        called: Literal["stop", "tool_calls"] = "tool_calls",
        new_logprobs: Callable[[], WordLogprobs] | None = None,
        interval_s: float = 0.0,
    ) -> None:
        """Read what the engine makes.

        Args:
            generations: one a choice.
            model: name to answer under.
            new_reader: makes what finds words and calls in a choice's text.
            called: the reason that an answer with calls ends with.
            new_logprobs: makes what tells how likely a choice's tokens were; None for an answer without.
            interval_s: what comes within so many seconds of a choice's last delta, its first apart, is one delta.
        """
        self.id = f"chatcmpl-{secrets.token_hex(16)}"
        self.created = int(time.time())
        self.model = model
        self.generations = generations
        self.reasons: dict[int, str] = {}
        self._readers = [new_reader() for _ in generations]
        self._called = called
        self._interval_s = interval_s
        self._logprobs = [new_logprobs() for _ in generations] if new_logprobs else None

    def cancel(self) -> None:
        """Stop the model's work on this request."""
        for generation in self.generations:
            generation.cancel()

    def usage(self) -> dict[str, int]:
        """Tokens so far; the prompt counts once."""
        prompt = self.generations[0].usage.prompt_tokens
        completion = sum(generation.usage.completion_tokens for generation in self.generations)
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}

    async def deltas(self) -> AsyncGenerator[Delta]:
        """The choices' deltas in the order in which they come, none empty.

        Raises:
            EngineError: a generation failed.
        """
        deltas = self._read(0) if len(self.generations) == 1 else self._read_all()
        try:
            async with contextlib.aclosing(deltas):
                async for delta in deltas:
                    yield delta
        finally:
            self.cancel()

    async def _read_all(self) -> AsyncGenerator[Delta]:
        """The deltas of several choices."""
        arrived: asyncio.Queue[Delta | BaseException] = asyncio.Queue()

        async def read(index: int) -> None:
            async for delta in self._read(index):
                arrived.put_nowait(delta)

        def report(task: "asyncio.Task[None]") -> None:
            if not task.cancelled() and (error := task.exception()):
                arrived.put_nowait(error)

        tasks = [asyncio.create_task(read(n)) for n in range(len(self.generations))]
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
            for task in tasks:
                task.cancel()

    async def _read(self, index: int) -> AsyncGenerator[Delta]:
        has_called = False
        entries: list[dict[str, Any]] = []
        generation = self.generations[index]
        async for chunk in generation:
            reason: str | None = chunk.finish_reason
            words, parts = self._readers[index].read(chunk.text, is_final=reason is not None)
            has_called = has_called or any(part.is_last for part in parts)
            if reason == "deadline":
                reason = self._out_of_time(index)
            elif reason == "stop" and has_called:
                reason = self._called
            if self._logprobs:
                entries += self._logprobs[index].read(chunk)
            if reason is not None:
                self.reasons[index] = reason
            if words or parts or reason:
                if not generation.chunk_interval_s:  # the client has something to read: what follows may be gathered
                    generation.chunk_interval_s = self._interval_s
                yield Delta(index, words, parts, reason, tuple(entries))
                entries = []

    def _out_of_time(self, index: int) -> str:
        """The reason of an answer that its deadline cut."""
        if self.generations[index].usage.completion_tokens:
            return "length"
        raise out_of_time()

    async def whole(self) -> dict[str, Any]:
        """The complete answer.

        Raises:
            EngineError: a generation failed.
            Problem: its deadline came before its first word.
        """
        for generation in self.generations:
            generation.chunk_interval_s = math.inf  # nobody reads before the end
        texts = [""] * len(self.generations)
        parts: list[list[CallPart]] = [[] for _ in texts]
        reasons: list[str | None] = [None] * len(texts)
        logprobs: list[list[dict[str, Any]]] = [[] for _ in texts]
        async for delta in self.deltas():
            texts[delta.index] += delta.text
            parts[delta.index] += delta.parts
            reasons[delta.index] = delta.finish_reason
            logprobs[delta.index] += delta.logprobs
        choices = [
            {
                "index": n,
                "message": _message(texts[n], parts[n]),
                "logprobs": _logprobs(logprobs[n]) if self._logprobs else None,
                "finish_reason": reasons[n],
            }
            for n in range(len(texts))
        ]
        return {**self._head("chat.completion"), "choices": choices, "usage": self.usage()}

    async def events(self, *, has_usage: bool) -> AsyncGenerator[str]:
        """Server-sent events, those of a delta in one text; a failure in their midst is told by one of them.

        Args:
            has_usage: end with an event that counts the tokens.

        Raises:
            EngineError: a generation failed before the first event.
            Problem: its deadline came before that.
        """
        opened = [False] * len(self.generations)
        head = _encode(self._head("chat.completion.chunk"))[:-1]
        tail = ',"usage":null}' if has_usage else "}"
        last = ""
        try:
            async with contextlib.aclosing(self.deltas()) as deltas:
                async for delta in deltas:
                    choices = _choices(delta, is_first=not opened[delta.index])
                    opened[delta.index] = True
                    text = "".join(f'data: {head},"choices":[{_encode(choice)}]{tail}\n\n' for choice in choices)
                    if len(self.reasons) < len(opened):
                        yield text
                    else:  # the end goes out in one
                        last += text
        except (UnderstudyError, Problem) as error:
            if not any(opened):
                raise
            problem = error if isinstance(error, Problem) else problem_of(error)
            yield f"{last}{event_text(problem.to_json(is_in_stream=True))}data: [DONE]\n\n"
        else:
            counted = {**self._head("chat.completion.chunk"), "choices": [], "usage": self.usage()}
            yield f"{last}{event_text(counted) if has_usage else ''}data: [DONE]\n\n"

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def _message(text: str, parts: list[CallPart]) -> dict[str, Any]:
    """A whole message; a call that was cut off is not in it."""
    calls = []
    for part in parts:
        if part.is_last:
            own = [one for one in parts if one.number == part.number]
            function = {"name": own[0].name, "arguments": "".join(one.arguments for one in own)}
            calls.append({"id": own[0].id, "type": "function", "function": function})
    message = {"role": "assistant", "content": text if text or not calls else None, "refusal": None}
    return {**message, "tool_calls": calls} if calls else message


def _logprobs(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"content": list(entries), "refusal": None}


def _choices(delta: Delta, *, is_first: bool) -> list[dict[str, Any]]:
    """A delta as a stream tells it: the role before the first, words, calls, and the reason at the end."""
    steps: list[dict[str, Any]] = []
    if is_first:
        steps.append({"role": "assistant", "content": None if delta.parts and not delta.text else ""})
    num_silent = len(steps)
    if delta.text:
        steps.append({"content": delta.text})
    steps += [{"tool_calls": [_part(part)]} for part in delta.parts]
    if delta.finish_reason:
        steps.append({})
    choices: list[dict[str, Any]] = [
        {"index": delta.index, "delta": step, "logprobs": None, "finish_reason": None} for step in steps
    ]
    if delta.logprobs:
        choices[num_silent]["logprobs"] = _logprobs(delta.logprobs)
    if delta.finish_reason:
        choices[-1]["finish_reason"] = delta.finish_reason
    return choices


def _part(part: CallPart) -> dict[str, Any]:
    """Name and id once: clients join what comes twice."""
    if not part.name:
        return {"index": part.number, "function": {"arguments": part.arguments}}
    function = {"name": part.name, "arguments": part.arguments}
    return {"index": part.number, "id": part.id, "type": "function", "function": function}


def event_text(value: Mapping[str, Any]) -> str:
    """A server-sent event; ASCII: some clients take U+2028 inside a string for the end of a line."""
    return f"data: {_encode(value)}\n\n"
