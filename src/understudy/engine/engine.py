"""The engine: one thread owns the model, requests share it step by step."""

import dataclasses
import logging
import math
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as TokenIds
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from understudy.engine.api import EngineFacts, EngineOptions, EngineStats
from understudy.engine.backend import Backend, Cache
from understudy.engine.constraint import Constraint
from understudy.engine.embedding import mean_hidden_states
from understudy.engine.generation import Generation
from understudy.engine.paging import KvLayout, KvPages, Pager
from understudy.engine.prefix import PrefixStore
from understudy.engine.quota import Quota
from understudy.engine.request import Chunk, GenerationRequest, check_request
from understudy.engine.sequence import Sequence
from understudy.engine.stepper import Stepper
from understudy.errors import EngineError
from understudy.model.config import NemotronConfig
from understudy.tokenizer import Tokenizer

__all__ = ["Engine"]

_QUOTA_WAIT_S = 0.005
_SHARED_TOKENS = 32  # fewer are read again rather than waited for

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class _Waiting:
    request: GenerationRequest
    generation: Generation
    max_tokens: int
    constraint: Constraint | None
    deadline: float  # of `time.monotonic`
    is_resumed: bool = False


class Engine:
    """Token ids in, a stream of text and token ids out; safe to call from any thread.

    Continuous batching: requests join and leave the running batch at every step. A step takes one token of
    every sequence in decode, and up to `prefill_tokens` of prompts, the oldest request's first; of several sequences,
    half take theirs while the other half's tokens are drawn (`engine.stepper`).

    Attributes:
        on_done: told of each request that ended, warm-ups left out. It is called from any thread, even by the garbage
            collector: it must neither block nor raise. A deque's `append` will do.
    """

    def __init__(self, backend: Backend, tokenizer: Tokenizer, *, options: EngineOptions | None = None) -> None:
        """Start the model thread; `close`, or leaving the `with` block, ends it.

        Args:
            backend: a loaded model; nobody else may call it from now on.
            tokenizer: the model's own.
            options: limits.
        """
        self.backend = backend
        self.tokenizer = tokenizer
        self.options = options or EngineOptions()
        self._prefixes = PrefixStore(
            max_sequences=self.options.prefix_sequences,
            max_bytes=self.options.prefix_bytes,
            cache_bytes_per_token=backend.memory().cache_bytes_per_token,
        )
        self._quota = Quota(self.options.owner_tokens_per_s)
        self._stepper = Stepper(
            backend,
            self._prefixes,
            self._quota,
            prefill_tokens=self.options.prefill_tokens,
            may_launch=self.options.overlaps,
        )
        # Reentrant: the garbage collector may cancel an abandoned request while this thread holds the lock.
        self._changed = threading.Condition(threading.RLock())
        self._waiting: deque[_Waiting] = deque()
        self._running: list[Sequence] = []
        self._is_closed = False
        self._prompt_tokens = self._cached_tokens = 0
        self._errands: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._pager = Pager(backend, self._prefixes, longest=self._longest, call=self._call)
        self.on_done: Callable[[Generation], Any] | None = None
        self.on_step: Callable[[], None] | None = None
        self._num_cache_tokens = self._num_free_tokens = backend.num_free_tokens()
        self._thread = threading.Thread(target=self._run, name="understudy-model", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def config(self) -> NemotronConfig:
        """Shape of the model."""
        return self.backend.config

    @property
    def facts(self) -> EngineFacts:
        """What computes the model."""
        kv = KvLayout.of(self.backend)
        return EngineFacts(backend=self.backend.name, memory=self.backend.memory(), kv=kv)

    @property
    def absence(self) -> EngineError | None:
        """Why it takes no requests; None where it does."""
        return EngineError("The engine is closed; open a new one to generate.") if self._is_closed else None

    @property
    def num_running(self) -> int:
        """Sequences in the running batch, ended ones included until the step is done."""
        return len(self._running)

    def submit(self, request: GenerationRequest) -> Generation:
        """Queue a request; returns at once.

        Raises:
            ContextLengthError: the prompt alone is longer than the model's context.
            RequestError: a token id is not in the vocabulary, or the request's constraint cannot be made.
            EngineError: the engine is closed.
        """
        check_request(request, self.backend.config)
        seed = request.sampling.seed
        generation = Generation(
            seed=secrets.randbits(32) if seed is None else seed,
            num_prompt_tokens=len(request.prompt_ids),
            on_done=None if request.is_warm_up else self.on_done,
        )
        self.enqueue(request, generation)
        return generation

    def enqueue(self, request: GenerationRequest, generation: Generation) -> None:
        """Queue a request that `check_request` let through, for somebody's own `Generation`.

        Raises:
            RequestError: the request's constraint cannot be made.
            EngineError: the engine is closed.
        """
        room = self.backend.config.max_position_embeddings - len(request.prompt_ids)
        # Here, not in the model's thread: what is wrong with a grammar is raised at the caller, and holds up nobody.
        constraint = request.constraint() if request.constraint else None
        max_tokens = room if request.max_tokens is None else min(room, request.max_tokens)
        max_tokens = 0 if request.is_warm_up else max_tokens
        with self._changed:
            if (absence := self.absence) is not None:
                raise absence
            if max_tokens == 0 and not request.is_warm_up:
                generation.deliver(Chunk("", (), "length"))
                return
            deadline = math.inf if request.deadline_s is None else time.monotonic() + request.deadline_s
            self._waiting.append(_Waiting(request, generation, max_tokens, constraint, deadline))
            self._changed.notify_all()

    def warm(self, prompt_ids: TokenIds[int], *, priority: int = -1, owner: str | None = None) -> Generation:
        """Read a beginning before anybody waits for it, so that a prompt that begins so costs only what is new.

        Others go first: while somebody speaks, a warm-up reads little a step, and it gives its place up to a request of
        a higher priority, or to one that reads the same beginning. What was read when it is cancelled is kept.

        Args:
            prompt_ids: (T,) e.g. a character's system prompt.
            priority: below that of the requests that shall go first.
            owner: as of `GenerationRequest`.

        Returns:
            An answer without words; `text()` waits until all is read, `cancel()` ends it.

        Raises:
            ContextLengthError: it is longer than the model's context.
            RequestError: it is empty, or a token id is not in the vocabulary.
            EngineError: the engine is closed.
        """
        request = GenerationRequest(prompt_ids=tuple(prompt_ids), priority=priority, owner=owner, is_warm_up=True)
        return self.submit(request)

    def embed(
        self, texts: TokenIds[TokenIds[int]], *, is_cancelled: Callable[[], bool] = lambda: False
    ) -> npt.NDArray[np.float32]:
        """Texts as vectors: the mean of the last hidden states of their tokens, of length 1. Blocks; others go on.

        Args:
            texts: (B, T) token ids.
            is_cancelled: asked between steps; true ends the work with what there is.

        Returns:
            (B, D).

        Raises:
            ContextLengthError: a text is longer than the model's context.
            RequestError: a text is empty, or a token id is not in the vocabulary.
            EngineError: the backend gives no hidden states, no memory is left, or the engine is closed.
        """
        return mean_hidden_states(
            self.backend,
            self._prefixes,
            texts,
            call=self._call,
            step_tokens=self.options.prefill_tokens,
            is_cancelled=is_cancelled,
        )

    def export_prefix(
        self, token_ids: TokenIds[int], *, start: int = 0, max_bytes: int | None = None
    ) -> KvPages | None:
        """Copy the keys and values of a beginning, as far as they are cached; others are not held up.

        Args:
            token_ids: (T,) e.g. a conversation's prompt.
            start: leave out so many tokens, rounded down to whole pages: those that many conversations share.
            max_bytes: stop after so many bytes of pages; None for all.

        Returns:
            The pages; None where nothing after `start` is cached, or the backend gives none out.

        Raises:
            EngineError: the engine is closed.
        """
        return self._pager.take(token_ids, start=start, max_bytes=max_bytes)

    def import_prefix(self, kept: KvPages) -> int:
        """Put exported pages back among the past sequences, within the same limits as those; others are not held up.

        Returns:
            How many of the tokens are cached now: all, or fewer where the tokens before the pages are not cached
            (`warm` them first) or there is no room.

        Raises:
            EngineError: the pages are of another format, shape or vocabulary, or the engine is closed.
        """
        return self._pager.put(kept)

    def stats(self) -> EngineStats:
        """Figures of this moment; cancelled requests count no more, even if a step still carries them."""
        with self._changed:
            return EngineStats(
                num_running=sum(not s.generation.is_done for s in self._running),
                num_waiting=sum(not w.generation.is_done for w in self._waiting),
                prompt_tokens=self._prompt_tokens,
                cached_tokens=self._cached_tokens,
                prefilled_tokens=self._stepper.prefilled_tokens,
                generated_tokens=self._stepper.generated_tokens,
                cache_usage=1 - (self._num_free_tokens or 0) / self._num_cache_tokens
                if self._num_cache_tokens
                else None,
            )

    def close(self) -> None:
        """Fail what is in flight and wait for the model's step to end; further calls do nothing."""
        with self._changed:
            self._is_closed = True
            for generation in [s.generation for s in self._running] + [w.generation for w in self._waiting]:
                generation.fail(EngineError("The engine was closed before the answer was complete."))
            while self._errands:
                self._errands.popleft()[1].set_exception(EngineError("The engine was closed meanwhile."))
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        """The model thread."""
        while self._wait_for_work():
            self._run_errands()
            self._admit()
            # A backend may raise anything, and a thread that dies would leave all readers waiting for ever.
            try:
                self._step()
            except Exception as error:  # noqa: BLE001
                self._fail_all(error)
            self._retire()
            if self.on_step is not None:
                self.on_step()
        self._stepper.settle()

    def _fail_all(self, error: Exception) -> None:
        """Drop the running sequences with their caches: what these hold now, nobody knows."""
        self._stepper.settle()
        with self._changed:
            failed, self._running = self._running, []
        for sequence in failed:
            sequence.generation.fail(self._failure(error))

    def _wait_for_work(self) -> bool:
        """Sleep until there is a request; False once the engine is closed."""
        with self._changed:
            while not (self._is_closed or self._waiting or self._running or self._errands):
                self._changed.wait()
            return not self._is_closed

    def _call(self, work: Callable[[], Any]) -> Any:
        """Run something between two steps of the model thread; what it returns or raises."""
        done: Future[Any] = Future()
        with self._changed:
            if self._is_closed:
                raise EngineError("The engine is closed; open a new one.")
            self._errands.append((work, done))
            self._changed.notify_all()
        return done.result()

    def _run_errands(self) -> None:
        while True:
            with self._changed:
                if not self._errands:
                    return
                work, done = self._errands.popleft()
            try:
                done.set_result(work())
            except Exception as error:  # noqa: BLE001 (as in _run)
                done.set_exception(error)

    def _admit(self) -> None:
        """Move waiting requests to the running batch: by priority, then first come first served."""
        now = time.monotonic()
        with self._changed:  # others add requests while these are looked at
            ready = list(self._waiting)
        for waiting in ready:
            if now >= waiting.deadline:
                waiting.generation.deliver(Chunk("", (), "deadline"))
        ready.sort(key=lambda w: -w.request.priority)  # stable: the first of the highest
        for waiting in ready:
            if not waiting.generation.is_done:
                self._suspend_warm_ups(waiting.request)
            if len(self._running) >= self.options.max_running:
                break
            if not waiting.generation.is_done and self._is_being_read(waiting.request):
                continue
            sequence = None if waiting.generation.is_done else self._start(waiting)
            with self._changed:
                self._waiting.remove(waiting)
                self._running += [sequence] if sequence else []

    def _is_being_read(self, request: GenerationRequest) -> bool:
        """Whether a running prompt has yet to read a beginning that this one shares: waiting for it saves that work."""
        worth = self._prefixes.longest(request.prompt_ids)[0] + _SHARED_TOKENS
        return any(
            s.num_pending > 1
            and s.priority >= request.priority
            and not s.generation.is_done
            and self._quota.may_draw(s.owner)
            and s.num_shared(request.prompt_ids) > max(worth, s.cache.length)
            for s in self._running
        )

    def _suspend_warm_ups(self, request: GenerationRequest) -> None:
        """Put warm-ups back in the queue that read what a request needs first, or take its place."""
        weaker = [s for s in self._running if s.request.is_warm_up and s.priority < request.priority]
        weaker = [s for s in weaker if not (s.generation.is_done or s.is_airborne)]
        stopped = [s for s in weaker if s.num_shared(request.prompt_ids) > s.cache.length]
        if not stopped and len(self._running) >= self.options.max_running:
            stopped = sorted(weaker, key=lambda s: s.priority)[:1]
        with self._changed:
            for s in stopped:
                self._running.remove(s)
                self._waiting.append(_Waiting(s.request, s.generation, 0, None, s.deadline, is_resumed=True))
        for s in stopped:
            self._prefixes.put(s.cached_token_ids, s.cache)

    def _longest(self, prompt_ids: TokenIds[int]) -> tuple[int, Cache | None]:
        """The cache, past or in use, with the longest beginning of a prompt, and how long that is."""
        length, cache = self._prefixes.longest(prompt_ids)
        for s in self._running:
            common = s.num_cached(tuple(prompt_ids), length, self.backend.block_tokens)
            if common > length:
                length, cache = common, s.cache
        return length, cache

    def _start(self, waiting: _Waiting) -> Sequence | None:
        """Give a request its cache; None, and the request failed, where the backend cannot."""
        prompt_ids = waiting.request.prompt_ids
        num_cached, donor = self._longest(prompt_ids)
        try:
            cache = self.backend.new_cache() if donor is None else donor.fork(num_cached)
        except Exception as error:  # noqa: BLE001 (as in _run)
            waiting.generation.fail(self._failure(error))
            return None
        if donor is not None:
            self._prefixes.touch(donor)
        if not waiting.is_resumed:
            waiting.generation.count(cached=num_cached)
            self._prompt_tokens += len(prompt_ids)
            self._cached_tokens += num_cached
        return Sequence(
            waiting.request,
            waiting.generation,
            cache,
            tokenizer=self.tokenizer,
            max_tokens=waiting.max_tokens,
            constraint=waiting.constraint,
            draft_tokens=self.backend.draft_tokens if self.options.use_drafts else 0,
            deadline=waiting.deadline,
        )

    def _step(self) -> None:
        """A forward pass over the running batch, or a half of it."""
        if not self._stepper.step(self._running):
            with self._changed:
                if any(not s.generation.is_done for s in self._running):  # every owner's quota is used up for now
                    self._changed.wait(_QUOTA_WAIT_S)

    def _retire(self) -> None:
        """Take done sequences out of the batch and keep their caches for the conversation's next turn."""
        self._num_free_tokens = self.backend.num_free_tokens()
        with self._changed:
            done = [s for s in self._running if s.generation.is_done and not s.is_airborne]
            if done:
                self._running = [s for s in self._running if s not in done]
        for sequence in done:
            if _log.isEnabledFor(logging.DEBUG):
                usage = sequence.generation.usage
                _log.debug(
                    "Prompt of %d tokens: %d were cached, %d read; %d generated.",
                    usage.prompt_tokens,
                    usage.cached_tokens,
                    usage.prompt_tokens - usage.cached_tokens - sequence.num_unread,
                    usage.completion_tokens,
                )
            if sequence.generation.finish_reason is not None:  # a failed sequence's cache is not to be trusted
                self._prefixes.put(sequence.cached_token_ids, sequence.cache)

    def _failure(self, cause: Exception) -> EngineError:
        error = EngineError(f"The {self.backend.name} backend failed: {cause!r}. Send the request again.")
        error.__cause__ = cause
        return error
