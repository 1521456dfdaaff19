"""The other side of `engine.remote`: an engine that is asked over a channel."""

import contextlib
import dataclasses
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

from understudy.engine.channel import Channel
from understudy.engine.constraint import Constraint
from understudy.engine.engine import Engine
from understudy.engine.generation import Generation
from understudy.engine.records import kv_from_json, kv_to_json, logprobs_to_json, request_from_json
from understudy.engine.request import Chunk
from understudy.errors import EngineError, RequestError

__all__ = ["LogToChannel", "serve_engine"]

_NUM_THREADS = 4  # for what takes a while: grammars, pages, vectors

Revive = Callable[[Mapping[str, Any]], Callable[[], Constraint]]


def serve_engine(channel: Channel, engine: Engine, *, revive: Revive) -> None:
    """Do what is asked until the other side is gone.

    Args:
        channel: to `RemoteEngine`.
        engine: nobody else's.
        revive: makes a request's constraint of what its `to_json` gave.
    """
    channel.send(["ready", dataclasses.asdict(engine.facts)])
    outbox = _Outbox(channel, engine)
    engine.on_step = outbox.flush
    desk = _Desk(engine, outbox, revive)
    with ThreadPoolExecutor(_NUM_THREADS) as pool, contextlib.suppress(EOFError):
        try:
            while True:
                desk.take(*channel.receive(), pool)
        finally:
            desk.close()


class LogToChannel(logging.Handler):
    """Has the other side write the log's lines."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        """Send a line; where nobody listens any more, it is lost."""
        with contextlib.suppress(OSError, ValueError):
            self._channel.send(["log", record.name, record.levelno, record.getMessage()])


class _Outbox:
    """What goes out with the next step: pieces of answers."""

    def __init__(self, channel: Channel, engine: Engine) -> None:
        self._channel, self._engine = channel, engine
        self._chunks: list[list[Any]] = []
        self._is_due = self._has_end = False
        self._num_running = 0  # as the other side knows it
        self._changing, self._sending = threading.Lock(), threading.Lock()

    def add(self, chunk: list[Any], *, is_due: bool, is_end: bool) -> None:
        """Keep a piece of an answer until the step is done, or, where it is not due, until something else is sent."""
        with self._changing:
            self._chunks.append(chunk)
            self._is_due = self._is_due or is_due
            self._has_end = self._has_end or is_end

    def flush(self, *, is_due: bool = False) -> None:
        """Send all, where something is due or the other side's figures are old."""
        # Before the lock: who closes the engine holds the engine's, and tells by this outbox what failed.
        stats = vars(self._engine.stats()) if self._has_end else None
        with self._sending:
            with self._changing:
                num_running = self._engine.num_running
                if not (is_due or self._is_due or self._has_end or num_running != self._num_running):
                    return
                chunks, self._chunks = self._chunks, []
                self._is_due = False
                self._has_end, self._num_running = self._has_end and stats is None, num_running
            self._send(["step", num_running, stats, chunks])
        if self._has_end:  # it came after the look at the figures
            self.flush()

    def tell(self, record: list[Any], blob: bytes | memoryview = b"") -> None:
        """Send something else, after all that came before it."""
        self.flush(is_due=True)
        self._send(record, blob)

    def _send(self, record: list[Any], blob: bytes | memoryview = b"") -> None:
        """Where nobody listens any more, it is lost."""
        with contextlib.suppress(OSError, ValueError):
            self._channel.send(record, blob)


class _Told(Generation):
    """One whose reader sits in the other process."""

    def __init__(
        self, number: int, desk: "_Desk", *, seed: int, num_prompt_tokens: int, interval_s: float = 0.0
    ) -> None:
        super().__init__(seed=seed, num_prompt_tokens=num_prompt_tokens)
        self._number, self._desk = number, desk
        self._told_cached = self._told_drawn = 0
        self._interval_s, self._told_s = interval_s, -math.inf
        self._has_words = False

    def deliver(self, chunk: Chunk) -> bool:
        """Send a piece with the step. False if the request is done already."""
        with self._changed:
            if self.is_done:
                return False
            self._finish_reason = chunk.finish_reason
            self.is_done = chunk.finish_reason is not None
            usage = self.usage
            num_cached, num_drawn = usage.cached_tokens - self._told_cached, usage.completion_tokens - self._told_drawn
            self._told_cached, self._told_drawn = usage.cached_tokens, usage.completion_tokens
            logprobs = logprobs_to_json(chunk.logprobs)
            told = [self._number, chunk.text, chunk.token_ids, chunk.finish_reason, logprobs, num_cached, num_drawn]
            self._desk.outbox.add(told, is_due=self.is_done or self._is_due(chunk), is_end=self.is_done)
        if self.is_done:
            self._desk.forget(self._number)
        return True

    def _is_due(self, chunk: Chunk) -> bool:
        """Whether the reader waits for it: for first words, and then only so often."""
        now = time.monotonic()
        if self._has_words and now < self._told_s + self._interval_s:
            return False
        self._has_words = self._has_words or bool(chunk.text.strip())
        self._told_s = now
        return True

    def fail(self, error: EngineError) -> bool:
        """Tell a failure. False if the request is done already."""
        with self._changed:
            if self.is_done:
                return False
            self.is_done = True
        self._desk.forget(self._number)
        self._desk.tell_fault(self._number, error)
        return True


class _Desk:
    """Answers one command after another.

    Attributes:
        outbox: where answers go.
    """

    def __init__(self, engine: Engine, outbox: _Outbox, revive: Revive) -> None:
        self.outbox = outbox
        self._engine, self._revive = engine, revive
        self._open: dict[int, _Told] = {}
        self._coming: set[int] = set()  # taken, and not with the engine yet, or a call
        self._unwanted: set[int] = set()  # of these
        self._is_closed = False

    def forget(self, number: int) -> None:
        """A request ended."""
        self._open.pop(number, None)

    def tell_fault(self, number: int, error: Exception) -> None:
        """A request, or a call, failed."""
        is_known = isinstance(error, EngineError | RequestError)
        kind = "RequestError" if isinstance(error, RequestError) else "EngineError"
        param = error.param if isinstance(error, RequestError) else None
        self.outbox.tell(["fault", number, kind, str(error) if is_known else repr(error), param])

    def take(self, record: list[Any], blob: bytes, pool: Executor) -> None:
        """Begin with a command; what takes a while is done in the pool."""
        kind, number = record[0], record[1]
        if kind == "cancel":
            self._cancel(number)
            return
        self._coming.add(number)
        if kind == "submit" and record[4] is None:
            self._answer(record, blob)
        else:
            pool.submit(self._answer, record, blob)

    def close(self) -> None:
        """End what takes a while: nobody waits for it any more."""
        self._is_closed = True
        self._unwanted |= self._coming

    def _cancel(self, number: int) -> None:
        if number in self._coming:
            self._unwanted.add(number)
        if (generation := self._open.get(number)) is not None:
            generation.cancel()
            self.outbox.flush()

    def _answer(self, record: list[Any], blob: bytes) -> None:
        kind, number, *given = record
        try:
            if kind == "submit":
                self._submit(number, *given)
            else:
                self._call(kind, number, given, blob)
        # As the engine's own thread: whatever fails here, somebody waits for it over there.
        except Exception as error:  # noqa: BLE001
            self._open.pop(number, None)
            self.tell_fault(number, error)
        finally:
            self._coming.discard(number)
            self._unwanted.discard(number)

    def _submit(self, number: int, seed: int, told: Mapping[str, Any], grammar: Mapping[str, Any] | None) -> None:
        request = request_from_json(told, self._revive(grammar) if grammar is not None else None)
        generation = _Told(
            number,
            self,
            seed=seed,
            num_prompt_tokens=len(request.prompt_ids),
            interval_s=request.reader_interval_s,
        )
        self._open[number] = generation
        self._engine.enqueue(request, generation)
        if number in self._unwanted:
            generation.cancel()
        if generation.is_done:  # without a step
            self.outbox.flush()

    def _call(self, kind: str, number: int, given: list[Any], blob: bytes) -> None:
        if kind == "embed":
            vectors = self._engine.embed(given[0], is_cancelled=lambda: number in self._unwanted)
            if self._is_closed:  # they are not whole
                raise EngineError("The engine was closed meanwhile.")
            self.outbox.tell(["result", number, vectors.shape], vectors.tobytes())
        elif kind == "export":
            kept = self._engine.export_prefix(given[0], start=given[1], max_bytes=given[2])
            record = None if kept is None else kv_to_json(kept)
            self.outbox.tell(["result", number, record], b"" if kept is None else kept.pages.tobytes())
        elif kind == "import":
            self.outbox.tell(["result", number, self._engine.import_prefix(kv_from_json(given[0], blob))])
        else:
            raise EngineError(f"The engine's process knows no {kind!r}.")
