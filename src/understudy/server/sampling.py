"""How a request wants its tokens drawn."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from understudy.engine import SamplingParams
from understudy.engine.repetition import sequence_breakers
from understudy.errors import RequestError
from understudy.npc.model import Model
from understudy.npc.shown import guarded
from understudy.prompt import Conversation
from understudy.server.schema import SampledRequest
from understudy.tokenizer import Tokenizer

__all__ = ["dry_breakers", "guard_sampling", "nth_sampling", "read_sampling"]

_MAX_ID_DIGITS = 10
_SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "dry_multiplier",
    "dry_base",
    "dry_allowed_length",
    "seed",
)


def nth_sampling(sampling: SamplingParams, number: int) -> SamplingParams:
    """Choices differ, but each can be repeated; the first is that of a request for one."""
    if sampling.seed is None or number == 0:
        return sampling
    return dataclasses.replace(sampling, seed=(sampling.seed + number * 0x9E3779B97F4A7C15) % (1 << 64))


def read_sampling(body: SampledRequest, default: SamplingParams) -> SamplingParams:
    """The request's own values, and the model's where it has none.

    Raises:
        RequestError: a value is out of range.
    """
    given: dict[str, Any] = {name: value for name in _SAMPLING if (value := getattr(body, name)) is not None}
    bias = body.logit_bias or {}
    if not all(token_id.isascii() and token_id.isdigit() and len(token_id) < _MAX_ID_DIGITS for token_id in bias):
        raise RequestError('logit_bias must have token ids as its keys, e.g. {"42": -100}.', param="logit_bias")
    given["logit_bias"] = {int(token_id): value for token_id, value in bias.items()}
    return dataclasses.replace(default, **given)


def guard_sampling(
    sampling: SamplingParams, body: SampledRequest, model: Model, conversation: Conversation | None = None
) -> SamplingParams:
    """Tell the guard against repetition, if there is one, what may be repeated.

    Args:
        sampling: of `read_sampling`.
        body: the request.
        model: whose tokens they are.
        conversation: its persona, tools and lore may be repeated word by word.
    """
    if not sampling.dry_multiplier:
        return sampling
    sampling = dataclasses.replace(sampling, dry_breakers=dry_breakers(model, body.dry_sequence_breakers))
    has_persona = conversation is not None and conversation.messages[0].role == "system"
    return (guarded(sampling, conversation, model.count) or sampling) if conversation and has_persona else sampling


def dry_breakers(model: Model, texts: Sequence[str] | None) -> frozenset[int]:
    """Ids of the tokens that end a repetition; without texts, the usual ones."""
    if texts is None:
        return model.character_sampling.dry_breakers
    return _breakers(model.files.tokenizer, tuple(texts))


@functools.lru_cache(maxsize=16)
def _breakers(tokenizer: Tokenizer, texts: tuple[str, ...]) -> frozenset[int]:
    """They are looked for in the whole vocabulary."""
    return sequence_breakers(tokenizer, texts)
