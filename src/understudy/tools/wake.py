"""Free text until a marker: when the model opens it, and how it must not be spelled."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from understudy.kernels.drawing import allowed_words
from understudy.tokenizer import Tokenizer

__all__ = ["WakeWatch"]


class WakeWatch:
    """Sees a marker come in free text, be it a special token or, where the vocabulary has none, letters.

    A vocabulary that has the marker as a token may not spell it in letters: readers of the text could not tell the two
    apart. One that lacks it may, but not with a token that goes on behind it, which no grammar would see.
    """

    def __init__(self, tokenizer: Tokenizer, marker: str, *, vocab_size: int) -> None:
        """Look through the vocabulary once.

        Args:
            tokenizer: the model's own.
            marker: text of the marker; no beginning of it may come again within it.
            vocab_size: V of the model.
        """
        self._marker = marker.encode()
        self._token_id = tokenizer.special_id(marker)
        ending = [(i, data) for i in range(vocab_size) if self._marker[-1:] in (data := tokenizer.token_bytes(i))]
        # By number of the marker's bytes that the text ends with: tokens that complete it, and those that go on.
        self._completing: list[npt.NDArray[np.intp]] = []
        self._overrunning: list[npt.NDArray[np.intp]] = []
        for size in range(len(self._marker)):
            spelled = [(i, self._marker[:size] + data) for i, data in ending]
            found = [(i, text) for i, text in spelled if self._marker in text]
            self._completing.append(_ids(i for i, text in found if text.endswith(self._marker)))
            self._overrunning.append(_ids(i for i, text in found if not text.endswith(self._marker)))
        self._vocab_size = vocab_size

    def is_marker(self, token_id: int) -> bool:
        """Whether the token is the marker's own."""
        return token_id == self._token_id

    def mask(self, num_matched: int, *, is_silent: bool) -> npt.NDArray[np.uint32] | None:
        """Which tokens may come next, as of `kernels.drawing.allowed_words`; None for all.

        Args:
            num_matched: bytes of the marker that the text ends with.
            is_silent: forbid the marker itself, too.
        """
        banned = [self._overrunning[num_matched]]
        if is_silent or self._token_id is not None:
            banned.append(self._completing[num_matched])
        if is_silent and self._token_id is not None:
            banned.append(_ids([self._token_id]))
        if not any(ids.size for ids in banned):
            return None
        places = np.ones(self._vocab_size, np.bool_)
        for ids in banned:
            places[ids] = False
        return allowed_words(places)

    def follow(self, num_matched: int, data: bytes) -> tuple[int, bool]:
        """Bytes of the marker that the text ends with after these, and whether they complete it."""
        text = self._marker[:num_matched] + data
        if text.endswith(self._marker):
            return 0, True
        sizes = range(min(len(self._marker) - 1, len(text)), 0, -1)
        return next((n for n in sizes if text.endswith(self._marker[:n])), 0), False


def _ids(token_ids: Iterable[int]) -> npt.NDArray[np.intp]:
    return np.fromiter(token_ids, dtype=np.intp)
