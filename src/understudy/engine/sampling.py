"""Logits to the next token."""

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.errors import EngineError, RequestError

__all__ = ["Sampler", "SamplingParams", "is_whole"]

_BAN = -100.0
_SEED_LIMIT = 1 << 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How the next token is drawn; the defaults draw from the model's own distribution.

    Attributes:
        temperature: 0 to 2; 0 is greedy.
        top_p: 0 to 1; keep the fewest most likely tokens whose probabilities sum to at least this.
        top_k: keep so many of the most likely tokens; 0 keeps all.
        min_p: 0 to 1; drop tokens less likely than this share of the most likely one.
        repetition_penalty: above 0, at most 10; divides positive and multiplies negative logits of tokens in
            prompt or output (CTRL, arXiv 1909.05858).
        frequency_penalty: -2 to 2; subtracted for each time that a token is in the output.
        presence_penalty: -2 to 2; subtracted once if a token is in the output.
        logit_bias: -100 to 100 added to a token's logit; -100 bans it.
        seed: whole number of at most 64 bits; None lets the engine draw one.

    Raises:
        RequestError: a value is out of range; `param` names it.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = dataclasses.field(default_factory=dict)
    seed: int | None = None

    def __post_init__(self) -> None:
        _check_number("temperature", self.temperature, 0.0, 2.0)
        _check_number("top_p", self.top_p, 0.0, 1.0)
        _check_number("min_p", self.min_p, 0.0, 1.0)
        _check_number("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        _check_number("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _check_number("repetition_penalty", self.repetition_penalty, 0.0, 10.0)
        if self.repetition_penalty == 0:
            raise RequestError("repetition_penalty must be above 0; 1 switches it off.", param="repetition_penalty")
        if not is_whole(self.top_k) or self.top_k < 0:
            raise RequestError(f"top_k must be a whole number from 0 (off), got {self.top_k!r}.", param="top_k")
        if self.seed is not None and not (is_whole(self.seed) and -_SEED_LIMIT < self.seed < _SEED_LIMIT):
            raise RequestError(f"seed must be a whole number of at most 64 bits, got {self.seed!r}.", param="seed")
        for token_id, bias in self.logit_bias.items():
            if not is_whole(token_id) or token_id < 0:
                raise RequestError(f"logit_bias: {token_id!r} is not a token id.", param="logit_bias")
            _check_number("logit_bias", bias, -100.0, 100.0)


class Sampler:
    """Draws the tokens of one sequence and remembers them for the penalties.

    Order, as in Hugging Face's and vLLM's samplers: repetition penalty, frequency and presence penalty, logit
    bias, temperature, top-k, top-p, min-p. One uniform number of the request's own PCG64 generator is used a
    token, and the cumulative distribution runs in the order of the ids, so that rounding differences between
    a batch and a single sequence do not change the draw.
    """

    def __init__(self, params: SamplingParams, *, prompt_ids: Sequence[int] = ()) -> None:
        """Start a sequence.

        Args:
            params: how to draw; without a seed the sequence cannot be repeated.
            prompt_ids: (T,) ids that the repetition penalty counts beside the output.
        """
        self._params = params
        seed = None if params.seed is None else params.seed % _SEED_LIMIT
        self._random = np.random.Generator(np.random.PCG64(seed))
        self._counts: Counter[int] = Counter()
        self._seen = set(prompt_ids) if params.repetition_penalty != 1 else set()
        self._bias_ids = np.array(list(params.logit_bias), dtype=np.int64)
        self._bias = np.array(
            [-math.inf if b <= _BAN else b for b in params.logit_bias.values()],
            dtype=np.float64,
        )

    def sample(self, logits: npt.NDArray[np.float32]) -> int:
        """Draw the next token.

        Args:
            logits: (V,); left unchanged.

        Raises:
            EngineError: a logit is NaN or +inf, or no token is left.
        """
        highest = logits.max()
        if np.isnan(highest) or highest == math.inf:
            raise EngineError("The model gave logits that are not numbers; its file or backend is damaged.")
        adjusted = self._adjust(logits.astype(np.float64))
        best = int(adjusted.argmax())
        if adjusted[best] == -math.inf:
            raise EngineError("No token is left to choose from; logit_bias bans the whole vocabulary.")
        token_id = best if self._params.temperature == 0 else self._draw(adjusted)
        self._counts[token_id] += 1
        self._seen.add(token_id)
        return token_id

    def _adjust(self, logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Apply penalties and bias in place."""
        params = self._params
        if params.repetition_penalty != 1 and self._seen:
            seen = np.fromiter(self._seen, dtype=np.int64)
            values = logits[seen]
            logits[seen] = np.where(values > 0, values / params.repetition_penalty, values * params.repetition_penalty)
        if (params.frequency_penalty or params.presence_penalty) and self._counts:
            ids = np.fromiter(self._counts.keys(), dtype=np.int64)
            counts = np.fromiter(self._counts.values(), dtype=np.float64)
            logits[ids] -= params.frequency_penalty * counts + params.presence_penalty
        if self._bias_ids.size:
            logits[self._bias_ids] += self._bias
        return logits

    def _draw(self, logits: npt.NDArray[np.float64]) -> int:
        params = self._params
        # The highest logit goes to 0 first, so that a tiny temperature cannot overflow.
        scaled = (logits - logits.max()) / max(params.temperature, 1e-6)
        if 0 < params.top_k < scaled.size:
            scaled[scaled < np.partition(scaled, -params.top_k)[-params.top_k]] = -math.inf
        probabilities = np.exp(scaled)
        probabilities /= probabilities.sum()
        if params.top_p < 1:
            _keep_nucleus(probabilities, params.top_p)
        if params.min_p > 0:
            probabilities[probabilities < params.min_p * probabilities.max()] = 0.0
        kept = np.flatnonzero(probabilities)
        cumulative = np.cumsum(probabilities[kept])
        place = np.searchsorted(cumulative, self._random.random() * cumulative[-1], side="right")
        return int(kept[min(int(place), kept.size - 1)])


def _keep_nucleus(probabilities: npt.NDArray[np.float64], top_p: float) -> None:
    """Zero, in place, what is outside of the nucleus; the most likely token always stays.

    Tokens below (1 - top_p) / V together weigh less than 1 - top_p: none is in the nucleus, none needs sorting.
    """
    # The factor leaves room for rounding, e.g. when all tokens are equally likely.
    candidates = np.flatnonzero(probabilities >= 0.999 * (1 - top_p) / probabilities.size)
    order = candidates[np.argsort(-probabilities[candidates], kind="stable")]
    before = np.cumsum(probabilities[order]) - probabilities[order]
    nucleus = order[: max(1, int(np.count_nonzero(before < top_p)))]
    kept = probabilities[nucleus]
    probabilities[:] = 0.0
    probabilities[nucleus] = kept


def is_whole(value: object) -> bool:
    """Whether a value, of any type at run time, is a whole number; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def _check_number(name: str, value: Any, low: float, high: float) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number and low <= value <= high):  # NaN fails both comparisons
        raise RequestError(f"{name} must be from {low:g} to {high:g}, got {value!r}.", param=name)
