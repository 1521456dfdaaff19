"""A guard against saying the same again: the longer a repetition has become, the less likely it goes on.

Source: "DRY" sampling (P. E. Weidmann, 2024), which text-generation-webui, llama.cpp and KoboldCpp offer by that name.
Deviation: repetitions longer than 64 tokens count as 64, where the penalty is beyond any logit anyway.
"""

from collections.abc import Collection, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from understudy.tokenizer import Tokenizer

__all__ = ["RepetitionGuard", "sequence_breakers"]

_MOST = 64
_BREAKERS = ("\n", ":", '"', "*")


def sequence_breakers(tokenizer: Tokenizer, texts: Iterable[str] = _BREAKERS) -> frozenset[int]:
    """Ids of tokens over which no repetition is counted: those with one of these texts in them, and all special ones.

    Reads the whole vocabulary; keep what it returns.
    """
    wanted = [text.encode() for text in texts]
    ids = range(tokenizer.vocab_size)
    found = {i for i in ids if any(text in tokenizer.token_bytes(i) for text in wanted)}
    return frozenset(found | set(tokenizer.specials.values()))


class RepetitionGuard:
    """Knows for every place in a sequence how many tokens before it are also the sequence's last ones.

    A new token lengthens the repetitions whose next token it is and ends all others, so that a step costs one pass over
    the sequence's ids: some microseconds for a whole context.
    """

    def __init__(
        self,
        *,
        multiplier: float,
        base: float,
        allowed_length: int,
        breakers: Collection[int] = frozenset(),
        token_ids: Sequence[int] = (),
    ) -> None:
        """Start with a prompt.

        Args:
            multiplier: penalty of a repetition of `allowed_length` tokens.
            base: by which it grows with each token more.
            allowed_length: shorter repetitions go unpunished.
            breakers: ids that end a repetition and are never penalized.
            token_ids: (T,) what was said before.
        """
        lengths = np.arange(_MOST + 1) - allowed_length
        self._penalties = np.where(lengths >= 0, multiplier * float(base) ** np.maximum(lengths, 0), 0.0)
        self._allowed_length = min(allowed_length, _MOST + 1)
        self._breakers = frozenset(breakers)
        self._ids = np.zeros(2 * len(token_ids) + 256, np.int64)
        self._lengths = np.zeros(self._ids.size, np.int16)  # of the repetition that ends at each id
        self._size = max(0, len(token_ids) - _MOST)  # what is further back cannot lengthen a repetition that counts
        self._ids[: self._size] = token_ids[: self._size]
        for token_id in token_ids[self._size :]:
            self.add(token_id)

    def add(self, token_id: int) -> None:
        """Follow the sequence by a token."""
        size = self._size
        if size == self._ids.size:
            self._ids, self._lengths = (np.concatenate([a, np.zeros_like(a)]) for a in (self._ids, self._lengths))
        if token_id in self._breakers:
            self._lengths[:size] = 0
        else:
            grown = np.zeros(size, np.int16)
            grown[1:] = self._lengths[: max(0, size - 1)]
            np.minimum(grown + 1, _MOST, out=grown)
            self._lengths[:size] = np.where(self._ids[:size] == token_id, grown, 0)
        self._ids[size] = token_id
        self._size = size + 1

    def penalties(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Ids (P,) that would go on with a repetition, each once, and what to take off their logits (P,)."""
        places = np.flatnonzero(self._lengths[: max(0, self._size - 1)] >= self._allowed_length)
        longest: dict[int, int] = {}
        for token_id, length in zip(self._ids[places + 1].tolist(), self._lengths[places].tolist(), strict=True):
            if token_id not in self._breakers:
                longest[token_id] = max(length, longest.get(token_id, 0))
        ids = np.fromiter(longest.keys(), np.int64, len(longest))
        return ids, self._penalties[np.fromiter(longest.values(), np.int64, len(longest))]
