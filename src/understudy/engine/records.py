"""Requests and what comes of them as JSON's types, for a process of the same version."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from understudy.engine.api import EngineFacts
from understudy.engine.constraint import Constraint
from understudy.engine.logprobs import TokenLogprob
from understudy.engine.paging import KvLayout, KvPages
from understudy.engine.request import GenerationRequest
from understudy.engine.sampling import SamplingParams
from understudy.model.memory import MemoryFigures

__all__ = [
    "facts_from_json",
    "kv_from_json",
    "kv_to_json",
    "logprobs_from_json",
    "logprobs_to_json",
    "request_from_json",
    "request_to_json",
]


def request_to_json(request: GenerationRequest) -> dict[str, Any]:
    """A request, its constraint apart."""
    sampling = vars(request.sampling)
    return {
        **vars(request),
        "sampling": {
            **sampling,
            "dry_breakers": list(sampling["dry_breakers"]),
            "logit_bias": list(sampling["logit_bias"].items()),
        },
        "stop_token_ids": list(request.stop_token_ids),
        "barred_token_ids": list(request.barred_token_ids),
        "visible_specials": list(request.visible_specials.items()),
        "constraint": None,
    }


def request_from_json(value: Mapping[str, Any], constraint: Callable[[], Constraint] | None) -> GenerationRequest:
    """What `request_to_json` gave, with its constraint."""
    sampling = value["sampling"]
    drawn = {
        **sampling,
        "dry_breakers": frozenset(sampling["dry_breakers"]),
        "logit_bias": dict(sampling["logit_bias"]),
    }
    given = {
        **value,
        "prompt_ids": tuple(value["prompt_ids"]),
        "sampling": SamplingParams(**drawn),
        "stop": tuple(value["stop"]),
        "stop_token_ids": frozenset(value["stop_token_ids"]),
        "barred_token_ids": frozenset(value["barred_token_ids"]),
        "visible_specials": dict(value["visible_specials"]),
        "constraint": constraint,
    }
    return GenerationRequest(**given)


def logprobs_to_json(logprobs: Sequence[TokenLogprob]) -> list[Any]:
    """How likely tokens were."""
    return [[one.token_id, one.logprob, one.top] for one in logprobs]


def logprobs_from_json(value: Sequence[Any]) -> tuple[TokenLogprob, ...]:
    """What `logprobs_to_json` gave."""
    return tuple(TokenLogprob(i, logprob, tuple(map(tuple, top))) for i, logprob, top in value)


def facts_from_json(value: Mapping[str, Any]) -> EngineFacts:
    """What `dataclasses.asdict` made of an engine's facts."""
    kv = value["kv"]
    memory = MemoryFigures(**value["memory"])
    return EngineFacts(backend=value["backend"], memory=memory, kv=None if kv is None else KvLayout(**kv))


def kv_to_json(kept: KvPages) -> dict[str, Any]:
    """Pages without their bytes."""
    fields = {field.name: getattr(kept, field.name) for field in dataclasses.fields(kept)}
    return {**fields, "pages": kept.pages.shape}


def kv_from_json(value: Mapping[str, Any], blob: bytes) -> KvPages:
    """Pages with their bytes."""
    pages = np.frombuffer(blob, np.uint8).reshape(value["pages"])
    return KvPages(**{**value, "token_ids": tuple(value["token_ids"]), "pages": pages})
