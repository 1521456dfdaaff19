"""Token ids to a stream of text that is never half a character and never past a stop string."""

import codecs
from collections.abc import Mapping, Sequence

from understudy.tokenizer import Tokenizer

__all__ = ["TextAssembler"]


class TextAssembler:
    """Joins the bytes of one sequence's tokens to text.

    Held back are: bytes that do not yet make a whole UTF-8 character, and the longest end of the text that
    could be the beginning of a stop string. All else is given out at once. The pieces joined are the text of
    all bytes (bytes that are no UTF-8 as U+FFFD), cut before the stop string that is complete first; of stop
    strings that are complete at the same character, before the longest. So the way in which tokens split the
    text changes nothing.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, stop: Sequence[str] = (), visible_specials: Mapping[int, str] | None = None
    ) -> None:
        """Start a text.

        Args:
            tokenizer: gives the bytes of a token; special tokens have none.
            stop: strings, none of them empty, that end the text.
            visible_specials: text by id for special tokens that the reader of the text must see.
        """
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._visible = {i: text.encode() for i, text in (visible_specials or {}).items()}
        self._is_whole = True  # no half character waits
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self.is_stopped = False

    def push(self, token_id: int) -> str:
        """Add a token; the text that can be given out now, often empty."""
        data = self._visible.get(token_id)
        if data is None:
            data = self._tokenizer.token_bytes(token_id)
        if self._is_whole and data.isascii():
            text = data.decode("ascii")
        else:
            text = self._decoder.decode(data)
            self._is_whole = not self._decoder.getstate()[0]
        return self._release(text) if self._stop or self._held or self.is_stopped else text

    def ignore_stops(self) -> None:
        """From the next token on, stop strings are ordinary text, also one that has begun."""
        self._stop = ()

    def finish(self) -> str:
        """End the text: what was held back, nothing after a stop string."""
        text = self._release(self._decoder.decode(b"", final=True))
        rest, self._held = self._held, ""
        return text + rest

    def _release(self, new: str) -> str:
        if self.is_stopped:
            return ""
        text = self._held + new
        if cut := self._first_stop(text):
            self.is_stopped = True
            self._held = ""
            return text[: cut[1]]
        border = len(text) - self._num_held(text)
        self._held = text[border:]
        return text[:border]

    def _first_stop(self, text: str) -> tuple[int, int] | None:
        """End and beginning of the stop string that is complete first."""
        found = [(begin + len(s), begin) for s in self._stop if (begin := text.find(s)) >= 0]
        return min(found, default=None)

    def _num_held(self, text: str) -> int:
        """Length of the longest end of the text that begins a stop string."""
        longest = 0
        for stop in self._stop:
            for size in range(min(len(stop) - 1, len(text)), longest, -1):
                if text.endswith(stop[:size]):
                    longest = size
                    break
        return longest
