"""llguidance at work: a model's vocabulary, and grammars that follow a sequence token by token."""

import dataclasses
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from understudy.errors import EngineError, RequestError
from understudy.tokenizer import Tokenizer
from understudy.tools.fault import first_line
from understudy.tools.grammar import Grammar
from understudy.tools.wake import WakeWatch

__all__ = ["CompiledGrammar", "GuidanceConstraint", "GuidanceVocabulary"]

_MAX_KEPT = 64
# Kinds of tokens that many states of a JSON string allow or forbid together, so that masks need not look at each: by
# length, since strings may have a limit, and how many letters are left is most of what states differ in.
_SLICES = [rf'[^"\\\x00-\x1F\x7F]{{1,{n}}}' for n in (1, 2, 3, 4, 5, 6, 8, 10, 14, 20, 30)] + [r'[^"\\\x00-\x1F\x7F]+']
_LEAD = "\n"  # no piece of a vocabulary joins it with what follows


class GuidanceVocabulary:
    """One model's tokens as llguidance sees them; made once, shared by all threads and requests."""

    def __init__(self, tokenizer: Tokenizer, *, vocab_size: int, stop_token_ids: frozenset[int]) -> None:
        """Read the vocabulary: some milliseconds, or a second for 256,000 tokens.

        Args:
            tokenizer: the model's own; byte-level or SentencePiece.
            vocab_size: V of the model; ids that have no token are never allowed.
            stop_token_ids: ids that end an answer, at least one.
        """
        self.tokenizer = tokenizer
        self.vocab_size = vocab_size
        self._tokens = LLTokenizer(
            TokenizerWrapper(_Spelling(tokenizer, vocab_size, stop_token_ids)),
            n_vocab=vocab_size,
            eos_token=sorted(stop_token_ids),
            slices=_SLICES,
        )
        self._limits = LLParserLimits(verbose_errors=False)
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, LLMatcher] = OrderedDict()
        self._watches: dict[str, WakeWatch] = {}

    def compile(self, grammar: Grammar) -> "CompiledGrammar":
        """What makes a request's constraints: `GenerationRequest(constraint=vocabulary.compile(grammar))`.

        Grammars that were used lately are kept compiled.

        Raises:
            RequestError: llguidance cannot hold the grammar; the message says what and why.
        """
        matcher = self._matcher(grammar)
        watch = self._watch(grammar.wakes_at) if grammar.wakes_at is not None else None
        return CompiledGrammar(self, grammar, matcher, watch)

    def _matcher(self, grammar: Grammar) -> LLMatcher:
        with self._lock:
            if (matcher := self._kept.get(grammar.source)) is not None:
                self._kept.move_to_end(grammar.source)
                return matcher
        matcher = LLMatcher(self._tokens, grammar.source, log_level=0, limits=self._limits)
        if not matcher.is_error():
            matcher.compute_bitmask()  # what is learned of the vocabulary here is copied with it
        if matcher.is_error():
            problem = first_line(matcher.get_error())
            raise RequestError(f"{grammar.param}: this grammar cannot be held: {problem}.", param=grammar.param)
        with self._lock:
            self._kept[grammar.source] = matcher
            while len(self._kept) > _MAX_KEPT:
                self._kept.popitem(last=False)
        return matcher

    def _watch(self, marker: str) -> WakeWatch:
        with self._lock:
            if marker not in self._watches:
                self._watches[marker] = WakeWatch(self.tokenizer, marker, vocab_size=self.vocab_size)
            return self._watches[marker]


@dataclasses.dataclass(frozen=True)
class CompiledGrammar:
    """Makes a grammar's hold for one sequence after another.

    Attributes:
        vocabulary: the model's.
        grammar: what was compiled: all that another process with the same model needs.
    """

    vocabulary: GuidanceVocabulary
    grammar: Grammar
    _matcher: LLMatcher
    _watch: WakeWatch | None

    def __call__(self) -> "GuidanceConstraint":
        """At the grammar's beginning."""
        matcher = self._matcher.deep_copy()
        return GuidanceConstraint(self.vocabulary, matcher, watch=self._watch, is_silent=self.grammar.is_silent)

    def to_json(self) -> dict[str, Any]:
        """The grammar as JSON's types."""
        return dataclasses.asdict(self.grammar)


class GuidanceConstraint:
    """One grammar's hold on one sequence; the engine's `Constraint`.

    Where it wakes at a marker, the text before is free, but for spellings of the marker that would hide it from the
    grammar; from there on it holds to the end.
    """

    def __init__(
        self, vocabulary: GuidanceVocabulary, matcher: LLMatcher, *, watch: WakeWatch | None, is_silent: bool = False
    ) -> None:
        """Start a sequence.

        Args:
            vocabulary: the model's.
            matcher: at its grammar's beginning, for this sequence alone.
            watch: sleep until it sees its marker; None to hold from the first token on.
            is_silent: never wake: the marker is forbidden.
        """
        self._matcher = matcher
        self._watch, self._is_silent = watch, is_silent
        self._num_matched = 0  # characters of the marker that the text ends with
        self._tokenizer = vocabulary.tokenizer
        self._bits = np.zeros((vocabulary.vocab_size + 31) // 32, np.uint32)
        self._address, self._num_bytes = self._bits.ctypes.data, self._bits.nbytes

    @property
    def is_active(self) -> bool:
        """Whether the grammar holds."""
        return self._watch is None

    @property
    def may_end(self) -> bool:
        """Whether the grammar is satisfied."""
        return self._watch is not None or self._matcher.is_accepting()

    @property
    def is_finished(self) -> bool:
        """Whether nothing may follow."""
        return self._watch is None and self._matcher.is_stopped() and not self._matcher.is_error()

    def mask(self) -> npt.NDArray[np.uint32] | None:
        """Which tokens may come next, as of `kernels.drawing.allowed_words`; None for all.

        Raises:
            EngineError: the grammar grew beyond llguidance's limits.
        """
        if self._watch is not None:
            return self._watch.mask(self._num_matched, is_silent=self._is_silent)
        self._matcher.unsafe_compute_mask_ptr(self._address, self._num_bytes)
        self._check()
        return self._bits

    def forced(self) -> tuple[int, ...]:
        """Tokens of the only continuation, spelled as the tokenizer spells it."""
        if self._watch is not None or self._matcher.is_stopped():
            return ()
        token_ids = tuple(self._matcher.compute_ff_tokens())
        self._check()
        return token_ids

    def num_allowed(self, token_ids: Sequence[int]) -> int:
        """How many of these could come next; asleep, all."""
        if self._watch is not None:
            return len(token_ids)
        return self._matcher.validate_tokens(list(token_ids))

    def accept(self, token_id: int) -> None:
        """Follow by one token.

        Raises:
            EngineError: the token was not allowed.
        """
        if self._watch is None:
            self._matcher.consume_token(token_id)
            self._check()
        elif self._watch.is_marker(token_id):
            self._watch = None
        else:
            self._num_matched, has_woken = self._watch.follow(self._num_matched, self._tokenizer.token_bytes(token_id))
            if has_woken:
                self._watch = None

    def _check(self) -> None:
        if self._matcher.is_error():
            raise EngineError(f"The grammar cannot go on: {first_line(self._matcher.get_error())}.")


class _Spelling:
    """The tokenizer as llguidance's TokenizerWrapper reads it."""

    bos_token_id: int | None = None

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, stop_token_ids: frozenset[int]) -> None:
        texts = {token_id: text.encode() for text, token_id in tokenizer.specials.items() if token_id < vocab_size}
        self.tokens = [texts.get(i) or tokenizer.token_bytes(i) for i in range(vocab_size)]
        self.special_token_ids = sorted(texts)
        self.eos_token_id = min(stop_token_ids)
        self._tokenizer = tokenizer
        self._lead = tokenizer.encode(_LEAD)

    def __call__(self, data: bytes) -> list[int]:
        """Ids of a text in the middle of an answer; some SentencePiece models put a space before every text's first."""
        text = data.decode("utf-8")
        token_ids = self._tokenizer.encode(text)
        if b"".join(self.tokens[i] for i in token_ids) == data:
            return token_ids
        return self._tokenizer.encode(_LEAD + text)[len(self._lead) :]
