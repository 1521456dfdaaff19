"""Pairs of answers laid into rows; the two of a pair stay together."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from understudy.data.dialogues import EncodedDialogues
from understudy.errors import DataError
from understudy.training.packing import pack_sizes

__all__ = ["PackedPairs"]

_I64 = npt.NDArray[np.int64]


class PackedPairs:
    """Rows of whole pairs, laid out once; each epoch goes through them in another order.

    Unlike a dialogue a pair is never cut: an answer without its end would be judged for what it is not.
    """

    def __init__(
        self, dialogues: EncodedDialogues, members: _I64, *, length: int, pad: int = 0, seed: Sequence[int] = ()
    ) -> None:
        """Choose the rows.

        Args:
            dialogues: the chosen and the rejected one of each pair in turn, their last answers as targets.
            members: indices of dialogues; both of a pair or none.
            length: T, tokens that a row predicts; longer pairs are left out.
            pad: id that fills the end of a row.
            seed: of the rows' order.

        Raises:
            DataError: no pair fits into a row.
        """
        self._dialogues, self._pad, self._seed = dialogues, pad, tuple(seed)
        first = members[members % 2 == 0]
        sizes = dialogues.offsets[first + 2] - dialogues.offsets[first]
        kept = sizes <= length + 1
        if not kept.any():
            raise DataError(
                f"None of {len(first)} pairs of answers, both with their prompt, fits into {length} tokens; give the "
                "stage a greater length, or shorter dialogues."
            )
        self.num_left_out = int((~kept).sum())
        self._pairs = first[kept]
        self._rows = pack_sizes(sizes[kept], length + 1)

    @property
    def num_rows(self) -> int:
        """Rows of an epoch."""
        return len(self._rows)

    def draw(self, first: int, count: int) -> tuple[_I64, npt.NDArray[np.float32], _I64]:
        """Rows number `first` to `first + count` of an endless series of epochs.

        Returns:
            Token ids (B, T + 1), weights (B, T), which are 1 on chosen answers and -1 on rejected ones, and document
            numbers (B, T).
        """
        epochs, places = np.divmod(np.arange(first, first + count), self.num_rows)
        orders = {int(e): np.random.default_rng((*self._seed, int(e))).permutation(self.num_rows) for e in set(epochs)}
        return self.lay([int(orders[int(e)][p]) for e, p in zip(epochs, places, strict=True)])

    def lay(self, rows: Sequence[int]) -> tuple[_I64, npt.NDArray[np.float32], _I64]:
        """The rows of these numbers, in the order of packing; returns what `draw` does."""
        offsets = self._dialogues.offsets
        fullest = max(sum(int(offsets[p + 2] - offsets[p]) for p in self._pairs[self._rows[r]]) for r in rows)
        ids = np.full((len(rows), fullest), self._pad, np.int64)
        weights = np.zeros((len(rows), fullest - 1), np.float32)
        documents = np.zeros((len(rows), fullest - 1), np.int64)
        for target, row in enumerate(rows):
            at = 0
            for number, member in enumerate(m for p in self._pairs[self._rows[row]] for m in (p, p + 1)):
                start, end = int(offsets[member]), int(offsets[member + 1])
                size = end - start
                ids[target, at : at + size] = self._dialogues.token_ids[start:end]
                spoken = self._dialogues.targets[start + 1 : end]
                weights[target, at : at + size - 1] = spoken * (-1.0 if number % 2 else 1.0)
                documents[target, at : at + size] = number
                at += size
            documents[target, at:] = 2 * len(self._rows[row])
        return ids, weights, documents
