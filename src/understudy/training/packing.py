"""Several dialogues in one row, so that little is padding; who may see whom is told by document numbers."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from understudy.data.dialogues import EncodedDialogues
from understudy.errors import DataError

__all__ = ["PackedDialogues", "pack_sizes"]

_F32 = npt.NDArray[np.float32]
_I64 = npt.NDArray[np.int64]


class PackedDialogues:
    """Dialogues laid into rows of one length, once; each epoch goes through the rows in another order.

    A dialogue longer than a row is cut at its end. One that then has nothing to learn is left out.
    """

    def __init__(
        self,
        dialogues: EncodedDialogues,
        members: _I64,
        *,
        length: int,
        prompt_weight: float = 0.0,
        pad: int = 0,
        seed: Sequence[int] = (),
    ) -> None:
        """Chooses the rows.

        Args:
            dialogues: the corpus.
            members: indices of the dialogues to lay out.
            length: T, tokens that a row predicts.
            prompt_weight: loss weight of tokens that the character does not say.
            pad: id that fills the end of a row.
            seed: of the rows' order.

        Raises:
            DataError: nothing is left to learn.
        """
        self._dialogues, self._length, self._prompt_weight, self._pad = dialogues, length, prompt_weight, pad
        self._seed = tuple(seed)
        starts = dialogues.offsets[members]
        self._sizes = np.minimum(dialogues.offsets[members + 1] - starts, length + 1)
        ends = starts + self._sizes
        spoken = np.concatenate([[0], np.cumsum(dialogues.targets, dtype=np.int64)])
        taught = (spoken[ends] > spoken[np.minimum(starts + 1, ends)]) | (prompt_weight > 0)
        kept = np.nonzero(taught & (self._sizes > 1))[0]
        if not len(kept):
            raise DataError(
                f"None of {len(members)} dialogues has a line of the character within {length} tokens; "
                "give the stage a greater length, or other dialogues."
            )
        self._starts = starts
        self._rows = [kept[row] for row in pack_sizes(self._sizes[kept], length + 1)]

    @property
    def num_rows(self) -> int:
        """Rows of an epoch."""
        return len(self._rows)

    @property
    def padding_share(self) -> float:
        """Share of the rows' places that no dialogue fills."""
        used = sum(int(self._sizes[row].sum()) for row in self._rows)
        return 1.0 - used / (self.num_rows * (self._length + 1))

    def draw(self, first: int, count: int) -> tuple[npt.NDArray[np.int64], _F32, _I64]:
        """Rows number `first` to `first + count` of an endless series of epochs.

        Returns:
            Token ids (B, T + 1), weights (B, T) and document numbers (B, T), T being what the fullest row needs.
        """
        epochs, places = np.divmod(np.arange(first, first + count), self.num_rows)
        orders = {int(e): np.random.default_rng((*self._seed, int(e))).permutation(self.num_rows) for e in set(epochs)}
        return self.lay([int(orders[int(e)][p]) for e, p in zip(epochs, places, strict=True)])

    def lay(self, rows: Sequence[int]) -> tuple[npt.NDArray[np.int64], _F32, _I64]:
        """The rows of these numbers, in the order of packing; returns what `draw` does."""
        fullest = max(int(self._sizes[self._rows[r]].sum()) for r in rows)
        ids = np.full((len(rows), fullest), self._pad, np.int64)
        weights = np.zeros((len(rows), fullest - 1), np.float32)
        documents = np.zeros((len(rows), fullest - 1), np.int64)
        for target, row in enumerate(rows):
            at = 0
            for number, member in enumerate(self._rows[row]):
                start, size = int(self._starts[member]), int(self._sizes[member])
                ids[target, at : at + size] = self._dialogues.token_ids[start : start + size]
                spoken = self._dialogues.targets[start + 1 : start + size]
                weights[target, at : at + size - 1] = np.where(spoken, 1.0, self._prompt_weight)
                documents[target, at : at + size] = number
                at += size
            documents[target, at:] = len(self._rows[row])
        return ids, weights, documents


def pack_sizes(sizes: npt.NDArray[np.integer], capacity: int) -> list[_I64]:
    """Lay items into rows: the largest first, each into the fullest row that still takes it.

    Args:
        sizes: (n,) from 1 to `capacity`.
        capacity: size of a row.

    Returns:
        The items' indices, row by row.
    """
    rows: list[list[int]] = []
    by_room: dict[int, list[int]] = {}
    rooms = 0  # bit r is set where a row with room r exists, so that the smallest fitting one is found at once
    for item in np.argsort(-sizes, kind="stable").tolist():
        size = int(sizes[item])
        fitting = rooms >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            row = by_room[room].pop()
            if not by_room[room]:
                rooms &= ~(1 << room)
        else:
            room, row = capacity, len(rows)
            rows.append([])
        rows[row].append(item)
        by_room.setdefault(room - size, []).append(row)
        rooms |= 1 << (room - size)
    return [np.asarray(row, np.int64) for row in rows]
