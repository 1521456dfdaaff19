"""How likely the tokens of an answer's words were, in OpenAI's form."""

from collections import deque
from typing import Any

from understudy.engine import Chunk
from understudy.engine.logprobs import TokenLogprob
from understudy.tokenizer import Tokenizer

__all__ = ["WordLogprobs"]

_UNLIKELY = -9999.0  # what OpenAI says of a token that could not come
_OPEN_CALL = "<toolcall>"


class WordLogprobs:
    """Follows one answer: each of its tokens comes once all of its bytes are in the text.

    Left out are tokens that are no part of the words: the one that ends the answer, those of a stop string, white space
    at the ends, and the tool calls. Joined, the bytes of the others are the text, but for white space that is part of
    the first or last token.
    """

    def __init__(self, tokenizer: Tokenizer, *, is_exact: bool) -> None:
        """Start an answer.

        Args:
            tokenizer: the model's own.
            is_exact: white space at the ends is part of the words.
        """
        self._tokenizer = tokenizer
        self._texts = {token_id: text for text, token_id in tokenizer.specials.items()}
        self._is_exact = is_exact
        self._waiting: deque[TokenLogprob] = deque()  # for their text
        self._blanks: list[dict[str, Any]] = []  # for the word behind them
        self._num_bytes = 0  # of text that is out and has no token yet
        self._has_begun = is_exact
        self._has_called = False

    def read(self, chunk: Chunk) -> list[dict[str, Any]]:
        """The entries that can be given out now."""
        self._num_bytes += len(chunk.text.encode())
        self._waiting += chunk.logprobs
        entries: list[dict[str, Any]] = []
        while self._waiting and not self._has_called:
            data = self._tokenizer.token_bytes(self._waiting[0].token_id)
            if len(data) > self._num_bytes:
                break
            self._num_bytes -= len(data)
            found = self._waiting.popleft()
            self._has_called = self._texts.get(found.token_id) == _OPEN_CALL
            if data:
                entries += self._placed(self._entry(found), data)
        return entries

    def _placed(self, entry: dict[str, Any], data: bytes) -> list[dict[str, Any]]:
        """The entry with the white space before it; nothing, while it may be white space at an end."""
        if not self._is_exact and data.isspace():
            if self._has_begun:
                self._blanks.append(entry)
            return []
        self._has_begun = True
        blanks, self._blanks = self._blanks, []
        return [*blanks, entry]

    def _entry(self, found: TokenLogprob) -> dict[str, Any]:
        top = [self._one(token_id, logprob) for token_id, logprob in found.top]
        return {**self._one(found.token_id, found.logprob), "top_logprobs": top}

    def _one(self, token_id: int, logprob: float) -> dict[str, Any]:
        if (text := self._texts.get(token_id)) is not None:
            return {"token": text, "logprob": max(logprob, _UNLIKELY), "bytes": None}
        data = self._tokenizer.token_bytes(token_id)
        return {"token": data.decode(errors="replace"), "logprob": max(logprob, _UNLIKELY), "bytes": list(data)}
