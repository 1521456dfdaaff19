"""A request while the model works on it; only the model thread touches it."""

import dataclasses

import numpy as np
import numpy.typing as npt

from understudy.engine.backend import Cache, Step
from understudy.engine.detokenizer import TextAssembler
from understudy.engine.generation import Generation
from understudy.engine.request import Chunk, FinishReason, GenerationRequest
from understudy.engine.sampling import Sampler
from understudy.errors import EngineError
from understudy.tokenizer import Tokenizer

__all__ = ["Sequence"]


class Sequence:
    """Tokens, cache, sampler and text of one running request.

    The cache lags behind the tokens: by the rest of the prompt in prefill, by one token in decode.
    """

    def __init__(
        self, request: GenerationRequest, generation: Generation, cache: Cache, *, tokenizer: Tokenizer, max_tokens: int
    ) -> None:
        """Start on a request.

        Args:
            request: what to do.
            generation: where the chunks go.
            cache: empty, or filled with a beginning of the prompt.
            tokenizer: gives the bytes of a token.
            max_tokens: what fits of the request's own limit, at least 1.
        """
        self.generation = generation
        self.cache = cache
        self._request = request
        self._tokens = list(request.prompt_ids)
        self._max_length = len(request.prompt_ids) + max_tokens
        self._sampler = Sampler(
            dataclasses.replace(request.sampling, seed=generation.seed), prompt_ids=request.prompt_ids
        )
        self._assembler = TextAssembler(tokenizer, stop=request.stop, visible_specials=request.visible_specials)
        self._undelivered: list[int] = []

    @property
    def num_pending(self) -> int:
        """Tokens that the cache lacks; 1 in decode."""
        return len(self._tokens) - self.cache.length

    @property
    def cached_token_ids(self) -> list[int]:
        """(S,) the tokens in the cache."""
        return self._tokens[: self.cache.length]

    def plan(self, num_tokens: int) -> Step:
        """The next step, of at most so many tokens (at least 1); logits only where the prompt is complete."""
        pending = self._tokens[self.cache.length : self.cache.length + num_tokens]
        return Step(self.cache, pending, num_logits=int(len(pending) == self.num_pending))

    def accept(self, logits: npt.NDArray[np.float32]) -> int:
        """Draw a token from the step's logits (num_logits, V), hand on the text that it completes; tokens drawn."""
        if not len(logits) or self.generation.is_done:
            return 0
        try:
            token_id = self._sampler.sample(logits[-1])
        except EngineError as error:
            self.generation.fail(error)
            return 0
        self._tokens.append(token_id)
        self._undelivered.append(token_id)
        self.generation.count(completion=1)
        text, reason = self._read(token_id)
        if text or reason is not None:
            self.generation.deliver(Chunk(text, tuple(self._undelivered), reason))
            self._undelivered.clear()
        return 1

    def _read(self, token_id: int) -> tuple[str, FinishReason | None]:
        """The text that a token gives, and whether it ends the answer."""
        if token_id in self._request.stop_token_ids:
            return self._assembler.finish(), "stop"
        text = self._assembler.push(token_id)
        is_full = len(self._tokens) >= self._max_length
        if is_full:
            text += self._assembler.finish()
        if self._assembler.is_stopped:
            return text, "stop"
        return text, "length" if is_full else None
