"""An engine in a process of its own: it shares neither the interpreter's lock nor a crash with this one."""

import contextlib
import dataclasses
import logging
import queue
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from understudy.engine.api import EngineFacts, EngineOptions, EngineStats
from understudy.engine.channel import Channel
from understudy.engine.embedding import check_texts
from understudy.engine.generation import Generation
from understudy.engine.paging import KvPages
from understudy.engine.records import facts_from_json, kv_from_json, kv_to_json, logprobs_from_json, request_to_json
from understudy.engine.request import Chunk, GenerationRequest, check_request
from understudy.errors import EngineError, ModelFileError, RequestError, UnderstudyError
from understudy.model.config import NemotronConfig

__all__ = ["RemoteEngine"]

_LOOK_S = 0.02
_PIPE_BYTES = 1 << 20
_END_S = 10.0
_YOUNG_S = 10.0  # a process that ends sooner than so after its start was not worth starting
_MAX_YOUNG = 3
_ERRORS: tuple[type[UnderstudyError], ...] = (EngineError, ModelFileError)

_log = logging.getLogger(__name__)


class _RemoteGeneration(Generation):
    """One whose tokens come from the other process."""

    def __init__(self, *, seed: int, num_prompt_tokens: int, on_done: Any, on_cancel: Callable[[], None]) -> None:
        super().__init__(seed=seed, num_prompt_tokens=num_prompt_tokens, on_done=on_done)
        self._on_cancel = on_cancel

    def cancel(self) -> None:
        """End the request now; the other process drops it within one step."""
        if self.deliver(Chunk("", (), "cancelled")):
            self._on_cancel()


class RemoteEngine:
    """`Engine`'s methods, for one that runs in a process of its own and ends with this one.

    Where that process ends by itself, killed or crashed, what it was asked fails, and it is started anew.

    Attributes:
        options: limits.
        on_done: as of `Engine`.
    """

    def __init__(self, command: Sequence[str], setup: Mapping[str, Any], *, config: NemotronConfig) -> None:
        """Start the process; `wait` until it has loaded the model.

        Args:
            command: a program that calls `serve_engine`, on its standard input and output.
            setup: what it is told first, JSON's types.
            config: the model's shape.

        Raises:
            EngineError: the process cannot be started.
        """
        self.options = EngineOptions()
        self.on_done: Callable[[Generation], Any] | None = None
        self._config = config
        self._command, self._setup = command, setup
        self._changed = threading.Condition()
        self._open: dict[int, Generation] = {}
        self._calls: dict[int, Future[tuple[Any, bytes]]] = {}
        self._next_id = 0
        self._num_running, self._stats = 0, EngineStats()
        self._facts: EngineFacts | None = None
        self._is_ready = False
        self._failure: UnderstudyError | None = None
        self._is_closed = False
        self._num_young = 0
        self._process, self._channel = self._start()
        # Cancelling may be the garbage collector's doing, in a thread that is sending: it must not send itself.
        self._cancelled: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=work, name=f"understudy-{name}", daemon=True)
            for name, work in (("answers", self._receive), ("cancel", self._send_cancelled))
        ]
        for thread in self._threads:
            thread.start()

    def wait(self) -> None:
        """Wait until the model is loaded; where it cannot be, all is closed.

        Raises:
            ModelFileError: its file is damaged or foreign.
            EngineError: the backend cannot run it, or the process ended.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._facts or self._failure)
            failure = self._failure
        if failure is not None:
            self.close()
            raise failure

    @property
    def config(self) -> NemotronConfig:
        """Shape of the model."""
        return self._config

    @property
    def facts(self) -> EngineFacts:
        """What computes the model.

        Raises:
            EngineError: the model is not loaded yet.
        """
        with self._changed:
            if self._facts is None:
                raise self._failure or EngineError("The model is not loaded yet; wait for it.")
            return self._facts

    @property
    def pid(self) -> int:
        """Of the process that runs it now."""
        return self._process.pid

    @property
    def absence(self) -> UnderstudyError | None:
        """Why it takes no requests: its process starts, or cannot; None where it does."""
        if self._is_closed:
            return EngineError("The engine is closed; open a new one to generate.")
        if self._is_ready:
            return None
        return self._failure or EngineError("The engine is being started anew; send the request again in a moment.")

    def submit(self, request: GenerationRequest) -> Generation:
        """See `Engine.submit`."""
        check_request(request, self._config)
        grammar = request.constraint.to_json() if request.constraint else None  # type: ignore[attr-defined]
        seed = request.sampling.seed
        with self._changed:
            number = self._new_id()
            generation = _RemoteGeneration(
                seed=secrets.randbits(32) if seed is None else seed,
                num_prompt_tokens=len(request.prompt_ids),
                on_done=None if request.is_warm_up else self.on_done,
                on_cancel=lambda: self._cancelled.put(number),
            )
            self._open[number] = generation
        try:
            self._send(["submit", number, generation.seed, request_to_json(request), grammar])
        except EngineError:
            with self._changed:
                self._open.pop(number, None)
            raise
        return generation

    def warm(self, prompt_ids: Sequence[int], *, priority: int = -1, owner: str | None = None) -> Generation:
        """See `Engine.warm`."""
        request = GenerationRequest(prompt_ids=tuple(prompt_ids), priority=priority, owner=owner, is_warm_up=True)
        return self.submit(request)

    def embed(
        self, texts: Sequence[Sequence[int]], *, is_cancelled: Callable[[], bool] = lambda: False
    ) -> npt.NDArray[np.float32]:
        """See `Engine.embed`."""
        check_texts(texts, self._config)
        record, blob = self._call(["embed", [list(map(int, text)) for text in texts]], is_cancelled=is_cancelled)
        return np.frombuffer(blob, np.float32).reshape(record).copy()

    def export_prefix(
        self, token_ids: Sequence[int], *, start: int = 0, max_bytes: int | None = None
    ) -> KvPages | None:
        """See `Engine.export_prefix`."""
        record, blob = self._call(["export", list(token_ids), start, max_bytes])
        return None if record is None else kv_from_json(record, blob)

    def import_prefix(self, kept: KvPages) -> int:
        """See `Engine.import_prefix`."""
        record, _ = self._call(["import", kv_to_json(kept)], kept.pages.tobytes())
        return int(record)

    def stats(self) -> EngineStats:
        """See `Engine.stats`; the totals are those of the last answer's end."""
        with self._changed:
            # The receiving thread takes ended ones out without the lock.
            num_open = sum(not generation.is_done for generation in list(self._open.values()))
            num_running = min(self._num_running, num_open)
            return dataclasses.replace(self._stats, num_running=num_running, num_waiting=num_open - num_running)

    def close(self) -> None:
        """Fail what is in flight and end the process; further calls do nothing."""
        with self._changed:
            self._is_closed = True
            process, channel = self._process, self._channel
        channel.close()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
        self._cancelled.put(None)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

    def _start(self) -> tuple[subprocess.Popen[bytes], Channel]:
        try:
            process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        except OSError as error:
            raise EngineError(f"The engine's process cannot be started: {error}.") from error
        if sys.platform == "linux":  # so much may wait for a process that is held up, and holds up nobody here
            import fcntl

            with contextlib.suppress(OSError):  # more than this user may have
                fcntl.fcntl(cast("BinaryIO", process.stdin), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        channel = Channel(cast("BinaryIO", process.stdout), cast("BinaryIO", process.stdin))
        with contextlib.suppress(OSError):  # it ended already: the receiving thread says so
            channel.send(self._setup)
        return process, channel

    def _new_id(self) -> int:
        """A number for a request; the lock is held.

        Raises:
            EngineError: nobody would answer it.
        """
        if (absence := self.absence) is not None:
            raise absence
        self._next_id += 1
        return self._next_id

    def _call(
        self, record: list[Any], blob: bytes = b"", *, is_cancelled: Callable[[], bool] | None = None
    ) -> tuple[Any, bytes]:
        """Ask for something that takes a while, and wait for it."""
        done: Future[tuple[Any, bytes]] = Future()
        with self._changed:
            number = self._new_id()
            self._calls[number] = done
        self._send([record[0], number, *record[1:]], blob)
        if is_cancelled is None:
            return done.result()
        while not is_cancelled():
            with contextlib.suppress(TimeoutError):
                return done.result(_LOOK_S)
        self._cancelled.put(number)
        return done.result()

    def _send(self, record: list[Any], blob: bytes = b"") -> None:
        try:
            self._channel.send(record, blob)
        except (OSError, ValueError) as error:
            raise EngineError("The engine's process ended; send the request again in a moment.") from error

    def _send_cancelled(self) -> None:
        while (number := self._cancelled.get()) is not None:
            with contextlib.suppress(EngineError):
                self._send(["cancel", number])

    def _receive(self) -> None:
        """The receiving thread: hand on what comes, and start the process anew where it ends."""
        while True:
            began = time.monotonic()
            with contextlib.suppress(EOFError):
                while True:
                    self._take(*self._channel.receive())
            if not self._renew(time.monotonic() - began):
                return

    def _renew(self, lived_s: float) -> bool:
        """Fail what was asked of a process that ended, and start another; False where that is no use."""
        status = self._process.wait()
        self._channel.close()
        with self._changed:
            self._is_ready = False
            open_, self._open = self._open, {}
            calls, self._calls = self._calls, {}
            self._num_running = 0
            self._num_young = self._num_young + 1 if lived_s < _YOUNG_S else 0
            if self._failure is None and self._facts is None:
                self._failure = EngineError(f"The engine's process ended with status {status} before it was ready.")
            elif self._failure is None and self._num_young >= _MAX_YOUNG:
                self._failure = EngineError(f"The engine's process ended with status {status}, again and again.")
            self._changed.notify_all()
            reason = "closed" if self._is_closed else f"the engine's process ended with status {status}"
        error = EngineError(f"The answer was not complete: {reason}. Send the request again.")
        for generation in open_.values():
            generation.fail(error)
        for call in calls.values():
            call.set_exception(error)
        with self._changed:
            if self._is_closed or self._failure is not None:
                return False
            _log.error("The engine's process ended with status %d; it is started anew.", status)
            try:
                self._process, self._channel = self._start()
            except EngineError as failure:
                self._failure = failure
            return self._failure is None

    def _take(self, record: list[Any], blob: bytes) -> None:
        kind = record[0]
        if kind == "step":
            self._take_step(*record[1:])
        elif kind == "result":
            with self._changed:
                call = self._calls.pop(record[1], None)
            if call is not None:
                call.set_result((record[2], blob))
        elif kind == "log":
            logging.getLogger(record[1]).log(record[2], "%s", record[3])
        elif kind == "fault":
            self._take_fault(*record[1:])
        elif kind == "ready":
            with self._changed:
                self._facts, self._stats, self._is_ready = facts_from_json(record[1]), EngineStats(), True
                self._changed.notify_all()
        elif kind == "failed":
            self._failure = next((e(record[2]) for e in _ERRORS if e.__name__ == record[1]), EngineError(record[2]))

    def _take_step(self, num_running: int, stats: dict[str, Any] | None, chunks: list[list[Any]]) -> None:
        self._num_running = num_running
        if stats is not None:
            self._stats = EngineStats(**stats)
        for number, text, token_ids, reason, logprobs, num_cached, num_drawn in chunks:
            generation = self._open.get(number)
            if generation is None:
                continue
            generation.count(cached=num_cached, completion=num_drawn)
            if reason is not None:
                self._open.pop(number, None)
            generation.deliver(Chunk(text, tuple(token_ids), reason, logprobs_from_json(logprobs)))

    def _take_fault(self, number: int, kind: str, message: str, param: str | None) -> None:
        """A request, or a call, failed."""
        error: UnderstudyError = EngineError(message) if kind == "EngineError" else RequestError(message, param=param)
        with self._changed:
            generation, call = self._open.pop(number, None), self._calls.pop(number, None)
        if generation is not None:
            generation.fail(error if isinstance(error, EngineError) else EngineError(message))
        if call is not None:
            call.set_exception(error)
