"""Drafts by prompt lookup: what followed the last words before will perhaps follow again.

Source: prompt lookup decoding (A. Saxena, 2023); n-gram speculation without a model. The drafts are only proposals:
`Sequence` keeps a drafted token only if the sampler draws it anyway, so the text is the same with and without.
"""

from collections.abc import Sequence

__all__ = ["PromptLookup"]

_NGRAM = 3
_PATIENCE = 0.25


class PromptLookup:
    """Proposes a sequence's continuation; drafts get longer while they are right, and stop while they are not."""

    def __init__(self, max_tokens: int) -> None:
        """Start a sequence.

        Args:
            max_tokens: the longest draft; 0 never drafts.
        """
        self._max_tokens = max_tokens
        self._places: dict[tuple[int, ...], int] = {}
        self._indexed = 0
        self._trust = 1.0

    def draft(self, token_ids: Sequence[int], limit: int) -> list[int]:
        """Tokens that may follow.

        Args:
            token_ids: (S,) all tokens so far; a later call's must begin with an earlier call's.
            limit: at most so many.
        """
        if not self._max_tokens:
            return []
        for end in range(max(self._indexed, _NGRAM), len(token_ids)):  # the last n-gram has no continuation yet
            self._places[tuple(token_ids[end - _NGRAM : end])] = end
        self._indexed = max(self._indexed, len(token_ids))
        self._trust = min(1.0, self._trust + 0.02)  # after a while of silence, try again
        place = self._places.get(tuple(token_ids[-_NGRAM:]))
        if place is None or self._trust < _PATIENCE:
            return []
        size = min(limit, max(1, round(self._max_tokens * self._trust)))
        return list(token_ids[place : place + size])

    def learn(self, num_drafted: int, num_right: int) -> None:
        """Tell how a draft fared."""
        if num_drafted:
            self._trust += 0.4 * (num_right / num_drafted - self._trust)
