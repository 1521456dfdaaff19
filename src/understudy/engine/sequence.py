"""A request while the model works on it; only the model thread touches it."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.engine.backend import Cache, Step
from understudy.engine.constraint import Constraint, TokenGate
from understudy.engine.detokenizer import TextAssembler
from understudy.engine.generation import Generation
from understudy.engine.logprobs import TokenLogprob, token_logprob
from understudy.engine.lookup import PromptLookup
from understudy.engine.prefix import num_common
from understudy.engine.request import Chunk, FinishReason, GenerationRequest
from understudy.engine.sampling import Sampler
from understudy.errors import EngineError
from understudy.kernels.drawing import DrawRule, allowed_places
from understudy.tokenizer import Tokenizer

__all__ = ["Sequence"]


class Sequence:
    """Tokens, cache, sampler and text of one running request.

    The cache lags behind the tokens: by the rest of the prompt in prefill, by one token in decode.

    Attributes:
        is_airborne: a forward pass is under way that writes its cache.
        last_step: number of the step that it took last; 0 for none.
    """

    def __init__(
        self,
        request: GenerationRequest,
        generation: Generation,
        cache: Cache,
        *,
        tokenizer: Tokenizer,
        max_tokens: int,
        constraint: Constraint | None = None,
        draft_tokens: int = 0,
        deadline: float = math.inf,
    ) -> None:
        """Start on a request.

        Args:
            request: what to do.
            generation: where the chunks go.
            cache: empty, or filled with a beginning of the prompt.
            tokenizer: gives the bytes of a token.
            max_tokens: what fits of the request's own limit, at least 1; 0 for a warm-up.
            constraint: what the answer must follow; used by nobody else.
            draft_tokens: longest draft by prompt lookup; 0 for none.
            deadline: when the answer ends with what it has, by `time.monotonic`.
        """
        self.generation = generation
        self.is_airborne, self.last_step = False, 0
        self.priority, self.owner, self.deadline = request.priority, request.owner, deadline
        self.cache = cache
        self.request = request
        self._tokens = list(request.prompt_ids)
        self._num_prompt = len(request.prompt_ids)
        self._max_length = self._num_prompt + max_tokens
        self._sampler = Sampler(request.sampling, prompt_ids=request.prompt_ids, seed=generation.seed)
        self._assembler = TextAssembler(tokenizer, stop=request.stop, visible_specials=request.visible_specials)
        self._undelivered: list[int] = []
        self._logprobs: list[TokenLogprob] = []  # of the undelivered tokens, if they are asked for
        self._text = ""  # of the undelivered tokens, until their step is done
        self._lookup = PromptLookup(draft_tokens) if draft_tokens else None
        self._draft: list[int] = []
        self._is_held = constraint is not None
        self._gate = TokenGate(constraint, stop_token_ids=request.stop_token_ids)
        self._num_taken = 0  # since the last step
        self._take_forced()

    @property
    def num_pending(self) -> int:
        """Tokens that the cache lacks; 1 in decode."""
        return len(self._tokens) - self.cache.length

    @property
    def num_unread(self) -> int:
        """Tokens of the prompt that the cache lacks."""
        return max(0, self._num_prompt - self.cache.length)

    @property
    def cached_token_ids(self) -> list[int]:
        """(S,) the tokens in the cache."""
        return self._tokens[: self.cache.length]

    def num_shared(self, prompt_ids: tuple[int, ...]) -> int:
        """Tokens that a prompt's beginning has in common with this one's; its last one is not counted."""
        return num_common(self.request.prompt_ids, prompt_ids[:-1])

    def num_cached(self, prompt_ids: tuple[int, ...], floor: int, block_tokens: int) -> int:
        """Tokens of a prompt's beginning, its last one left out, that are in the cache; 0 if no more than a floor.

        While a pass writes the cache, its last block is left alone.
        """
        most = min(self.cache.length, len(prompt_ids) - 1)
        if self.is_airborne:
            most = min(most, self.cache.length - self.cache.length % block_tokens)
        if most <= floor or self._tokens[floor] != prompt_ids[floor]:
            return 0
        return num_common(tuple(self._tokens[:most]), prompt_ids[:most])

    def expire(self) -> None:
        """End the answer with what it has."""
        self._text += self._assembler.finish()
        self._deliver("deadline")

    def plan(self, num_tokens: int) -> Step:
        """The next step: at most so many tokens (at least 1), and a draft in decode; logits only to draw from."""
        tokens, start = self._tokens, self.cache.length
        pending = tokens[start : start + num_tokens]
        if start + len(pending) < len(tokens) or self.request.is_warm_up:
            return Step(self.cache, pending, 0)
        if self._lookup is None or len(tokens) == self._num_prompt:
            return Step(self.cache, pending, 1)
        self._draft = self._propose(self._lookup)
        return Step(self.cache, [*pending, *self._draft], 1 + len(self._draft))

    def begin_draw(self, logits: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.floating[Any]], DrawRule] | None:
        """What the next token is drawn from, as of `Sampler.begin`, where one draw from all tokens is the whole step.

        None where there are no logits (num_logits, V), a draft or a grammar: `accept` then draws by itself.
        """
        if self._is_held or self._draft or not len(logits) or self.generation.is_done:
            return None
        return self._sampler.begin(logits[0])

    def accept(self, logits: npt.NDArray[np.float32], drawn: tuple[int, float] | None = None) -> int:
        """Draw tokens from the step's logits (num_logits, V), hand on the text that they complete; tokens taken.

        A drafted token counts if it is the one drawn: the next row of logits is then the next token's. What the
        grammar forces is taken with it, and read by the next step like a prompt.

        Args:
            logits: of the step.
            drawn: what `kernels.drawing.draw_rows` made of `begin_draw`'s answer, where that was not None.
        """
        if drawn is not None:
            return self._accept_drawn(logits[0], *drawn)
        if self.request.is_warm_up and not self.num_unread:
            self.generation.deliver(Chunk("", (), "length"))
        draft, self._draft = self._draft, []
        num_known = len(self._tokens)
        num_rows = self._draw(logits, draft)
        if draft and self._lookup is not None:
            num_right = max(0, num_rows - 1)
            self._lookup.learn(len(draft), num_right)
            self.cache.truncate(min(self.cache.length, num_known + num_right))
        if num_rows:
            self._take_forced()
        num_taken, self._num_taken = self._num_taken, 0
        return num_taken

    def _accept_drawn(self, logits: npt.NDArray[np.float32], place: int, highest: float) -> int:
        if self.generation.is_done:
            return 0
        try:
            token_id = self._sampler.end(logits, place, highest, barred=self._barred())
        except EngineError as error:
            self.generation.fail(error)
            return 0
        self._note_drawn(logits, token_id)
        self._take(token_id)
        self._deliver()
        self._num_taken = 0
        return 1

    def _propose(self, lookup: PromptLookup) -> list[int]:
        draft = lookup.draft(self._tokens, self._max_length - len(self._tokens) - 1)
        try:
            return self._gate.cut(draft)
        except EngineError as error:
            self.generation.fail(error)
            return []

    def _draw(self, logits: npt.NDArray[np.float32], draft: list[int]) -> int:
        """Take the token of each row while the draft is right; rows used."""
        for row, logits_row in enumerate(logits):
            if self.generation.is_done:
                return row
            try:
                token_id = self._gate.next_forced()
                if token_id is None:
                    token_id = self._sample(logits_row)
                else:
                    self._sampler.count(token_id)
                    self._note_forced(token_id)
                self._take(token_id)
            except EngineError as error:
                self.generation.fail(error)
                return row
            self._deliver()
            if row == len(draft) or token_id != draft[row]:
                return row + 1
        return 0

    def _sample(self, logits: npt.NDArray[np.float32]) -> int:
        allowed = self._gate.allowed(logits.size)
        token_id = self._sampler.sample(logits, allowed, barred=self._barred())
        self._note_drawn(logits, token_id, allowed)
        return token_id

    def _barred(self) -> frozenset[int]:
        """What free text may not have now."""
        request = self.request
        if request.min_tokens and len(self._tokens) - self._num_prompt < request.min_tokens:
            return request.barred_token_ids | request.stop_token_ids
        return request.barred_token_ids

    def _note_drawn(
        self, logits: npt.NDArray[np.float32], token_id: int, allowed: npt.NDArray[np.uint32] | None = None
    ) -> None:
        num_top = self.request.top_logprobs
        if num_top is not None:
            ids = None if allowed is None else allowed_places(allowed, logits.size)
            self._logprobs.append(token_logprob(logits, token_id, num_top=num_top, allowed=ids))

    def _note_forced(self, token_id: int) -> None:
        if self.request.top_logprobs is not None:
            top = ((token_id, 0.0),) if self.request.top_logprobs else ()
            self._logprobs.append(TokenLogprob(token_id, 0.0, top))

    def _take_forced(self) -> None:
        """Take all that the grammar forces, without the model; one chunk."""
        try:
            while not self.generation.is_done and (token_id := self._gate.next_forced()) is not None:
                self._sampler.count(token_id)
                self._note_forced(token_id)
                self._take(token_id)
        except EngineError as error:
            self.generation.fail(error)
        self._deliver()

    def _take(self, token_id: int) -> None:
        self._tokens.append(token_id)
        self._undelivered.append(token_id)
        self._num_taken += 1
        self.generation.count(completion=1)
        text, reason = self._read(token_id)
        self._text += text
        if reason is not None:
            self._deliver(reason)

    def _deliver(self, reason: FinishReason | None = None) -> None:
        if self._text or reason is not None:
            self.generation.deliver(Chunk(self._text, tuple(self._undelivered), reason, tuple(self._logprobs)))
            self._undelivered.clear()
            self._logprobs.clear()
            self._text = ""

    def _read(self, token_id: int) -> tuple[str, FinishReason | None]:
        """The text that a token gives, and whether it ends the answer: a grammar's end comes before a limit's."""
        assembler = self._assembler
        if token_id in self.request.stop_token_ids:
            return assembler.finish(), "stop"
        if self._is_held:
            self._gate.take(token_id)
            if self._gate.is_active:
                assembler.ignore_stops()
        text = assembler.push(token_id)
        if self._is_held and self._gate.is_finished:
            return text + assembler.finish(), "stop"
        is_full = len(self._tokens) >= self._max_length
        if is_full:
            text += assembler.finish()
        if assembler.is_stopped:
            return text, "stop"
        return text, "length" if is_full else None
