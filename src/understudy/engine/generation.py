"""A running request, as its caller sees it: an iterator of chunks for threads and for asyncio."""

import asyncio
import itertools
import math
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator

from understudy.engine.request import Chunk, FinishReason, Usage
from understudy.errors import EngineError

__all__ = ["Generation"]


class Generation:
    """The stream of one request; made by `Engine.submit`.

    Iterate it once, with `for` or `async for`. Leaving the loop early, by `break`, an exception or a cancelled
    task, cancels the request. All methods may be called from any thread; none waits for the model but the
    iterators, `text` and `atext`.

    Attributes:
        seed: what the tokens are drawn with; the same request with it gives the same tokens.
        chunk_interval_s: what comes within so many seconds of the last chunk is given out as one chunk, and the reader
            sleeps meanwhile; the end is not waited for. 0: each chunk alone, at once. Whoever reads may set it, also
            while it runs, e.g. once there are first words.
        began_s: when it was submitted, by `time.monotonic`.
        first_s: when its first token was there; None before.
        done_s: when it ended; None before.
        is_done: whether no further token will come: ended, cancelled or failed.
    """

    def __init__(
        self, *, seed: int, num_prompt_tokens: int, on_done: "Callable[[Generation], None] | None" = None
    ) -> None:
        """Called by the engine.

        Args:
            seed: the request's own, or the one that the engine drew.
            num_prompt_tokens: length of the prompt.
            on_done: called once at the end, from any thread, perhaps by the garbage collector: it may not block.
        """
        self.began_s = time.monotonic()
        self.first_s: float | None = None
        self.done_s: float | None = None
        self.is_done = False
        self._on_done = on_done
        self.seed = seed
        self.chunk_interval_s = 0.0
        self._taken_s = 0.0  # when the reader took the last chunk, by `time.monotonic`
        self._num_prompt_tokens = num_prompt_tokens
        self._num_cached_tokens = 0
        self._num_completion_tokens = 0
        # Reentrant: the garbage collector may close an abandoned iterator while this thread holds the lock.
        self._changed = threading.Condition(threading.RLock())
        self._chunks: deque[Chunk] = deque()
        self._sleepers: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        self._finish_reason: FinishReason | None = None
        self._error: EngineError | None = None

    @property
    def usage(self) -> Usage:
        """Tokens taken so far."""
        return Usage(
            prompt_tokens=self._num_prompt_tokens,
            completion_tokens=self._num_completion_tokens,
            cached_tokens=self._num_cached_tokens,
        )

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the text ended; None while it goes on, or if it failed."""
        return self._finish_reason

    def cancel(self) -> None:
        """End the request now; the model drops it within one step. Nothing happens if it is done already."""
        self.deliver(Chunk("", (), "cancelled"))

    def __iter__(self) -> Iterator[Chunk]:
        try:
            while (chunk := self._next_chunk()) is not None:
                yield chunk
        finally:
            self.cancel()

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        try:
            while (chunk := await self._next_chunk_async()) is not None:
                yield chunk
        finally:
            self.cancel()

    def text(self) -> str:
        """Wait for the end; all text that was not read yet.

        Raises:
            EngineError: the request failed.
        """
        return "".join(chunk.text for chunk in self)

    async def atext(self) -> str:
        """Like `text`, without blocking the event loop.

        Raises:
            EngineError: the request failed.
        """
        return "".join([chunk.text async for chunk in self])

    def count(self, *, cached: int = 0, completion: int = 0) -> None:
        """Called by the engine: add to the usage."""
        self._num_cached_tokens += cached
        self._num_completion_tokens += completion

    def deliver(self, chunk: Chunk) -> bool:
        """Called by the engine: hand a chunk to the reader. False if the request is done already."""
        with self._changed:
            if self.is_done:
                return False
            self._chunks.append(chunk)
            self._finish_reason = chunk.finish_reason
            self.is_done = chunk.finish_reason is not None
            now = time.monotonic()
            if self.first_s is None and chunk.token_ids:
                self.first_s = now
            if self.is_done or now >= self._taken_s + self.chunk_interval_s:  # else the reader's alarm wakes it
                self._wake()
        return True

    def fail(self, error: EngineError) -> bool:
        """Called by the engine: raise an error at the reader. False if the request is done already."""
        with self._changed:
            if self.is_done:
                return False
            self._error = error
            self.is_done = True
            self._wake()
        return True

    def _wake(self) -> None:
        if self.is_done and self.done_s is None:
            self.done_s = time.monotonic()
            if self._on_done is not None:
                self._on_done(self)
        self._changed.notify_all()
        sleepers, self._sleepers = self._sleepers, []
        for loop, event in sleepers:
            try:
                loop.call_soon_threadsafe(event.set)
            except RuntimeError:  # the reader's event loop is closed: nobody reads any more
                continue

    def _poll(self) -> tuple[bool, Chunk | None, float | None]:
        """Whether there is an answer now, and the answer: a chunk, None at the end. If not, how long to wait."""
        now = time.monotonic()
        wait_s = self._taken_s + self.chunk_interval_s - now
        if wait_s > 0 and not self.is_done:
            return False, None, wait_s if wait_s < math.inf else None
        if self._chunks:
            self._taken_s = now
            return True, self._take_all() if self.chunk_interval_s else self._chunks.popleft(), None
        if self._error is not None:
            raise self._error
        return self.is_done, None, None

    def _take_all(self) -> Chunk:
        """What waits, as one chunk."""
        if len(self._chunks) == 1:
            return self._chunks.popleft()
        chunks = tuple(self._chunks)
        self._chunks.clear()
        return Chunk(
            "".join(chunk.text for chunk in chunks),
            tuple(itertools.chain.from_iterable(chunk.token_ids for chunk in chunks)),
            chunks[-1].finish_reason,
            tuple(itertools.chain.from_iterable(chunk.logprobs for chunk in chunks)),
        )

    def _next_chunk(self) -> Chunk | None:
        with self._changed:
            while True:
                is_ready, chunk, wait_s = self._poll()
                if is_ready:
                    return chunk
                self._changed.wait(wait_s)

    async def _next_chunk_async(self) -> Chunk | None:
        while True:
            with self._changed:
                is_ready, chunk, wait_s = self._poll()
                if is_ready:
                    return chunk
                loop, event = asyncio.get_running_loop(), asyncio.Event()
                self._sleepers.append((loop, event))
            alarm = None if wait_s is None else loop.call_later(wait_s, event.set)
            try:
                await event.wait()
            finally:
                if alarm is not None:
                    alarm.cancel()
                with self._changed:
                    self._sleepers = [sleeper for sleeper in self._sleepers if sleeper[1] is not event]
