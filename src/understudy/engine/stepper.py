"""Forward passes over the running batch: what goes into each, and what comes of it."""

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from understudy.engine.backend import Backend, Flight, LaunchingBackend, Step
from understudy.engine.prefix import PrefixStore
from understudy.engine.quota import Quota
from understudy.engine.sequence import Sequence as Running
from understudy.errors import EngineError
from understudy.kernels.drawing import draw_rows

__all__ = ["Stepper"]

_WARM_TOKENS = 32  # of a warm-up in a step that somebody waits for
_FEW = 16  # with fewer sequences in the batch, a half is too few for a pass of its own

_Batch = list[tuple[Running, Step]]


@dataclasses.dataclass(frozen=True)
class _Airborne:
    batch: _Batch
    flight: Flight


class Stepper:
    """Takes the running sequences a step further; the model thread owns it.

    Where the backend computes while we are busy, and there are several sequences, half of them are computed while the
    other half's tokens are drawn and handed on. Who shares a pass changes no logits, so the text is the same.

    Attributes:
        prefilled_tokens: of prompts, that the model read.
        generated_tokens: tokens drawn.
    """

    def __init__(
        self, backend: Backend, prefixes: PrefixStore, quota: Quota, *, prefill_tokens: int, may_launch: bool = True
    ) -> None:
        """Start with nothing under way.

        Args:
            backend: computes the model.
            prefixes: past sequences, which make room for those that run.
            quota: of owners.
            prefill_tokens: prompt tokens until each running sequence has had its turn, all together.
            may_launch: compute one half while the other is drawn, where the backend can.
        """
        self.prefilled_tokens = self.generated_tokens = 0
        self._backend = backend
        self._launch: Callable[[Sequence[Step]], Flight] | None = None
        if may_launch and isinstance(backend, LaunchingBackend):
            self._launch = backend.launch
        self._prefixes, self._quota, self._prefill_tokens = prefixes, quota, prefill_tokens
        self._airborne: deque[_Airborne] = deque()  # two at most, the first to land first
        self._num_steps = 0

    def step(self, running: Sequence[Running]) -> bool:
        """One forward pass, perhaps only begun; False where no sequence could take a step.

        Args:
            running: all that run; those of a pass under way are left alone until it ends.
        """
        self._num_steps += 1
        alive = [s for s in running if not s.generation.is_done]
        is_speaking = any(not s.request.is_warm_up for s in alive)
        if self._launch is None or len(alive) < _FEW:
            if self._airborne:
                self._land()
                return True
            batch = self._fit(self._plan(alive, self._prefill_tokens, is_speaking=is_speaking))
            if batch:
                unread = _unread(batch)
                self._hand_on(batch, self._backend.forward([step for _, step in batch]), unread)
            return bool(batch)
        batch = self._fit(self._plan(_half(alive), -(-self._prefill_tokens // 2), is_speaking=is_speaking))
        if batch:
            self._airborne.append(_Airborne(batch, self._launch([step for _, step in batch])))
            for sequence, _ in batch:
                sequence.is_airborne, sequence.last_step = True, self._num_steps
        if len(self._airborne) > 1 or (self._airborne and not batch):
            self._land()
            return True
        return bool(batch)

    def settle(self) -> None:
        """Wait for what is under way, and forget what it computes."""
        while self._airborne:
            one = self._airborne.popleft()
            one.flight.settle()
            for sequence, _ in one.batch:
                sequence.is_airborne = False

    def _land(self) -> None:
        one = self._airborne.popleft()
        unread = _unread(one.batch)
        try:
            results = one.flight.land()
        finally:
            for sequence, _ in one.batch:
                sequence.is_airborne = False
        self._hand_on(one.batch, results, unread)

    def _hand_on(
        self, batch: _Batch, results: list[npt.NDArray[np.float32]], unread: list[tuple[Running, int]]
    ) -> None:
        """Draw each sequence's tokens and give out their text."""
        self.prefilled_tokens += sum(num - sequence.num_unread for sequence, num in unread)
        begun = [sequence.begin_draw(logits) for (sequence, _), logits in zip(batch, results, strict=True)]
        together = [one for one in begun if one is not None]
        drawn = iter(draw_rows([values for values, _ in together], [rule for _, rule in together]))
        for (sequence, _), logits, one in zip(batch, results, begun, strict=True):
            num_drawn = sequence.accept(logits, None if one is None else next(drawn))
            self.generated_tokens += num_drawn
            self._quota.draw(sequence.owner, num_drawn)

    def _plan(self, sequences: list[Running], budget: int, *, is_speaking: bool) -> _Batch:
        """Each decoding sequence's token, and prompt tokens up to the budget."""
        batch: _Batch = []
        now = time.monotonic()
        for sequence in sorted(sequences, key=lambda s: -s.priority):
            if now >= sequence.deadline:
                sequence.expire()
            if sequence.generation.is_done or not self._quota.may_draw(sequence.owner):
                continue
            if sequence.num_pending == 1:
                batch.append((sequence, sequence.plan(1)))
            elif budget:
                is_yielding = is_speaking and sequence.request.is_warm_up
                step = sequence.plan(min(budget, _WARM_TOKENS) if is_yielding else budget)
                budget -= len(step.token_ids)
                batch.append((sequence, step))
        return batch

    def _fit(self, batch: _Batch) -> _Batch:
        """Make room in the backend's caches: past sequences go first, then the newest requests fail."""
        while batch and (free := self._backend.num_free_tokens()) is not None:
            if sum(len(step.token_ids) + self._backend.block_tokens for _, step in batch) <= free:
                break
            if not self._prefixes.drop_oldest():
                newest, _ = batch.pop()
                newest.generation.fail(
                    EngineError(
                        "The KV cache's memory is all in use by other requests; send the request again when they are "
                        "done, or give the cache more memory."
                    )
                )
        return batch


def _half(alive: list[Running]) -> list[Running]:
    """Of those that are not under way, half of all at most: those that wait longest, in the order of all."""
    free = [s for s in alive if not s.is_airborne]
    most = (len(alive) + 1) // 2
    if len(free) <= most:
        return free
    chosen = set(sorted(free, key=lambda s: (-s.priority, s.last_step))[:most])
    return [s for s in free if s in chosen]


def _unread(batch: _Batch) -> list[tuple[Running, int]]:
    return [(sequence, num) for sequence, _ in batch if (num := sequence.num_unread)]
