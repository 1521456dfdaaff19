"""What may come next: a grammar's hold on one sequence, and how the engine asks it."""

from collections import deque
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from understudy.errors import EngineError

__all__ = ["Constraint", "TokenGate"]


class Constraint(Protocol):
    """A grammar that follows one sequence from its first generated token on; only the model thread calls it.

    The engine tells it each token that it takes, in order and only once it is certain (drafts are tried against the
    grammar by `num_allowed`), so nothing is ever taken back. The token that ends the answer is not told. Any error
    that it raises ends its own request and no other.
    """

    @property
    def is_active(self) -> bool:
        """Whether the answer is inside of what the grammar describes; False while it sleeps in free text."""
        ...

    @property
    def may_end(self) -> bool:
        """Whether the answer may end here: stop tokens are allowed just then."""
        ...

    @property
    def is_finished(self) -> bool:
        """Whether nothing may follow: the answer then ends without a stop token."""
        ...

    def mask(self) -> npt.NDArray[np.uint32] | None:
        """Which tokens may come next, stop tokens apart, as of `kernels.drawing.allowed_words`; None for all.

        The caller may write to it until it asks again.
        """
        ...

    def forced(self) -> tuple[int, ...]:
        """The tokens that come next whatever the model says, spelled as its tokenizer would; () where it may choose."""
        ...

    def num_allowed(self, token_ids: Sequence[int]) -> int:
        """How many of these tokens, from the first on, could come next; changes nothing."""
        ...

    def accept(self, token_id: int) -> None:
        """Follow the sequence by a token that was allowed or forced."""
        ...


class TokenGate:
    """Lets through what a sequence's constraint allows; without one, everything.

    Forced tokens are part of the answer's definition, not a guess at it: they are taken without asking the model, so
    that batches, drafts and chunks of prefill cannot change them.

    Attributes:
        is_active: whether a grammar holds the next token.
        is_finished: whether the grammar is complete and nothing may follow.
    """

    def __init__(self, constraint: Constraint | None, *, stop_token_ids: frozenset[int] = frozenset()) -> None:
        """Start a sequence.

        Args:
            constraint: fresh, for this sequence alone; None for free text.
            stop_token_ids: ids that end the answer.
        """
        self._constraint = constraint
        self._stop_bits = [(i // 32, 1 << i % 32) for i in sorted(stop_token_ids)]
        self._forced: deque[int] = deque()
        self._is_begun = False
        self.is_active = constraint is not None and constraint.is_active
        self.is_finished = constraint is not None and constraint.is_finished

    def next_forced(self) -> int | None:
        """Take the next token that the grammar forces, if it forces one.

        Raises:
            EngineError: the constraint failed.
        """
        if self._constraint is None:
            return None
        if not self._is_begun:
            self._is_begun = True
            self._look_ahead(self._constraint)
        return self._forced.popleft() if self._forced else None

    def allowed(self, vocab_size: int) -> npt.NDArray[np.uint32] | None:
        """Which tokens may come next, as of `kernels.drawing.allowed_words`; None for all.

        Args:
            vocab_size: V of the model; what the constraint allows beyond it is nobody's to draw.

        Raises:
            EngineError: the constraint failed.
        """
        if self._constraint is None:
            return None
        try:
            words = self._constraint.mask()
            if words is None:
                return None
            may_end = self._constraint.may_end
        except Exception as error:
            raise _failure(error) from error
        if 32 * words.size < vocab_size:
            words = np.pad(words, (0, (vocab_size + 31) // 32 - words.size))
        for place, bit in self._stop_bits:
            if place < words.size:
                word = words.item(place)
                words[place] = word | bit if may_end else word & ~bit
        return words

    def cut(self, draft: list[int]) -> list[int]:
        """The beginning of a draft that the grammar could take.

        Raises:
            EngineError: the constraint failed.
        """
        if not draft or self._constraint is None or not self.is_active:
            return draft
        try:
            return draft[: self._constraint.num_allowed(draft)]
        except Exception as error:
            raise _failure(error) from error

    def take(self, token_id: int) -> None:
        """Follow the sequence by a token that does not end it.

        Raises:
            EngineError: the constraint failed.
        """
        if self._constraint is None:
            return
        try:
            self._constraint.accept(token_id)
            self.is_active, self.is_finished = self._constraint.is_active, self._constraint.is_finished
        except Exception as error:
            raise _failure(error) from error
        if not self._forced:
            self._look_ahead(self._constraint)

    def _look_ahead(self, constraint: Constraint) -> None:
        try:
            self._forced.extend(constraint.forced())
        except Exception as error:
            raise _failure(error) from error


def _failure(cause: Exception) -> EngineError:
    """A constraint is foreign code to the engine and may raise anything; only its own request is to end by that."""
    if isinstance(cause, EngineError):
        return cause
    return EngineError(f"The constraint on the answer failed: {cause!r}. Send the request again, or simplify it.")
