"""How a request wants its tokens drawn."""

import dataclasses
from typing import Any

from understudy.engine import SamplingParams
from understudy.errors import RequestError
from understudy.server.schema import SampledRequest

__all__ = ["nth_sampling", "read_sampling"]

_MAX_ID_DIGITS = 10
_SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
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
