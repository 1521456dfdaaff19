"""What is asked of the engine and what it answers."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Literal

from understudy.engine.constraint import Constraint
from understudy.engine.logprobs import MAX_TOP_LOGPROBS, TokenLogprob
from understudy.engine.sampling import SamplingParams, is_whole
from understudy.errors import ContextLengthError, RequestError
from understudy.model.config import NemotronConfig

__all__ = ["Chunk", "FinishReason", "GenerationRequest", "Usage", "check_request"]

FinishReason = Literal["stop", "length", "cancelled", "deadline"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """One sequence to generate.

    Attributes:
        prompt_ids: (T,) at least one token.
        sampling: how tokens are drawn.
        max_tokens: at most so many new tokens; None, or more than fit, is what the context leaves.
        min_tokens: so many tokens come before one of `stop_token_ids` may; a grammar that is complete ends before.
        stop: strings that end the text; they are not part of it. Inside of what a constraint describes they are
            ordinary text: cutting there would break what the grammar promises.
        stop_token_ids: ids that end the text; they are not part of it.
        barred_token_ids: ids that free text never has, e.g. the mark of a call where there is nothing to call.
        visible_specials: text by id for special tokens that must show in the text, e.g. `<toolcall>`.
        priority: requests of a higher one start first and read their prompts first.
        deadline_s: seconds after submission at which the answer ends with what it has ("deadline"); None for never.
        owner: whose tokens it takes, e.g. a character, where the engine has a quota for each.
        constraint: makes the grammar that the answer must follow, anew for each sequence; None for free text.
        top_logprobs: tell how likely each token was, and so many of the most likely, at most 20; None for neither.
        reader_interval_s: after the first words the reader looks only so often, or (inf) only at the end: a hint with
            which an engine in another process sends less. 0: it wants each chunk at once.
        is_warm_up: read the prompt, keep what was computed, and generate nothing; others go first.

    Raises:
        RequestError: a value is out of range; `param` names it.
    """

    prompt_ids: tuple[int, ...]
    sampling: SamplingParams = dataclasses.field(default_factory=SamplingParams)
    max_tokens: int | None = None
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    barred_token_ids: frozenset[int] = frozenset()
    visible_specials: Mapping[int, str] = dataclasses.field(default_factory=dict)
    priority: int = 0
    deadline_s: float | None = None
    owner: str | None = None
    constraint: Callable[[], Constraint] | None = None
    top_logprobs: int | None = None
    reader_interval_s: float = 0.0
    is_warm_up: bool = False

    def __post_init__(self) -> None:
        if not self.prompt_ids:
            raise RequestError("The prompt is empty; it needs at least one token.", param="messages")
        limit = self.max_tokens
        if limit is not None and (not is_whole(limit) or limit < 1):
            raise RequestError(f"max_tokens must be a whole number from 1, got {limit!r}.", param="max_tokens")
        if not is_whole(self.min_tokens) or not 0 <= self.min_tokens <= (limit or self.min_tokens):
            raise RequestError(
                f"min_tokens must be a whole number from 0 to max_tokens, got {self.min_tokens!r}.", param="min_tokens"
            )
        if self.deadline_s is not None and not self.deadline_s > 0:
            raise RequestError(f"deadline_s must be above 0, got {self.deadline_s!r}.", param="deadline_s")
        top = self.top_logprobs
        if top is not None and not (is_whole(top) and 0 <= top <= MAX_TOP_LOGPROBS):
            raise RequestError(
                f"top_logprobs must be a whole number from 0 to {MAX_TOP_LOGPROBS}, got {top!r}.", param="top_logprobs"
            )
        if not _are_words(self.stop):
            raise RequestError(f"stop must be a tuple of strings that are not empty, got {self.stop!r}.", param="stop")


@dataclasses.dataclass(frozen=True)
class Chunk:
    """A piece of the answer.

    Attributes:
        text: whole characters; empty only in a last chunk.
        token_ids: tokens drawn since the last chunk, the one that ended the text included.
        finish_reason: set in the last chunk only.
        logprobs: one for each of the tokens, if the request asked for them. A token that a grammar forced is certain.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    finish_reason: FinishReason | None = None
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Usage:
    """Tokens that a request took; `cached_tokens` of the prompt came from an earlier sequence's cache."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


def _are_words(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(s, str) and s for s in value)


def check_request(request: GenerationRequest, config: NemotronConfig) -> None:
    """Refuse what a model has no room or no row for.

    Raises:
        ContextLengthError: the prompt alone is longer than its context.
        RequestError: a token id is not in its vocabulary.
    """
    if len(request.prompt_ids) > config.max_position_embeddings:
        raise ContextLengthError(len(request.prompt_ids), config.max_position_embeddings)
    for param, ids in (("messages", request.prompt_ids), ("logit_bias", tuple(request.sampling.logit_bias))):
        if ids and not 0 <= min(ids) <= max(ids) < config.vocab_size:
            raise RequestError(f"{param}: token ids must be from 0 to {config.vocab_size - 1}.", param=param)
