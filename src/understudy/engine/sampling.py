"""Logits to the next token."""

import dataclasses
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.engine.repetition import RepetitionGuard
from understudy.errors import EngineError, RequestError
from understudy.kernels.drawing import DrawRule, allowed_words, draw, draw_rows, survey

__all__ = ["Sampler", "SamplingParams", "is_whole"]

_BAN = -100.0
_SEED_LIMIT = 1 << 64
_NOTHING_LEFT = "No token is left to choose from; logit_bias bans the whole vocabulary."

_Floats = npt.NDArray[np.floating[Any]]


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
        dry_multiplier: 0 to 100; taken off the logit of a token that would repeat what was said before
            (`engine.repetition`), for a repetition of `dry_allowed_length` tokens; 0 switches the guard off.
        dry_base: 1 to 4; the penalty grows by this with each token that is repeated.
        dry_allowed_length: 1 or more; shorter repetitions are free.
        dry_breakers: ids that end a repetition and may always be repeated (`engine.repetition.sequence_breakers`).
        dry_skip_tokens: of the prompt's beginning, e.g. persona and lore, which may be repeated freely.
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
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_breakers: frozenset[int] = frozenset()
    dry_skip_tokens: int = 0
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
            _check_id("logit_bias", token_id)
            _check_number("logit_bias", bias, -100.0, 100.0)
        self._check_guard()

    def _check_guard(self) -> None:
        _check_number("dry_multiplier", self.dry_multiplier, 0.0, 100.0)
        _check_number("dry_base", self.dry_base, 1.0, 4.0)
        for name, value, least in (
            ("dry_allowed_length", self.dry_allowed_length, 1),
            ("dry_skip_tokens", self.dry_skip_tokens, 0),
        ):
            if not is_whole(value) or value < least:
                raise RequestError(f"{name} must be a whole number from {least}, got {value!r}.", param=name)
        for token_id in self.dry_breakers:
            _check_id("dry_breakers", token_id)


class Sampler:
    """Draws the tokens of one sequence and remembers them for the penalties.

    Order, as in Hugging Face's and vLLM's samplers: repetition penalty, frequency and presence penalty, (ours alone)
    the guard against repetitions, logit bias, temperature, top-k, top-p, min-p. One uniform number of the request's own
    PCG64 generator is used a token, and the cumulative distribution runs in the order of the ids, so that rounding
    differences between a batch and a single sequence do not change the draw. Probabilities are doubles.
    """

    def __init__(self, params: SamplingParams, *, prompt_ids: Sequence[int] = (), seed: int | None = None) -> None:
        """Start a sequence.

        Args:
            params: how to draw.
            prompt_ids: (T,) ids that the repetition penalty and the guard count beside the output.
            seed: in place of the parameters' own; with neither the sequence cannot be repeated.
        """
        self._params = params
        seed = params.seed if seed is None else seed
        self._random = np.random.Generator(np.random.PCG64(None if seed is None else seed % _SEED_LIMIT))
        self._counts: Counter[int] = Counter()
        self._seen = set(prompt_ids) if params.repetition_penalty != 1 else set()
        self._guard = None
        if params.dry_multiplier:
            self._guard = RepetitionGuard(
                multiplier=params.dry_multiplier,
                base=params.dry_base,
                allowed_length=params.dry_allowed_length,
                breakers=params.dry_breakers,
                token_ids=prompt_ids[params.dry_skip_tokens :],
            )
        self._bias_ids = np.array(list(params.logit_bias), dtype=np.int64)
        self._bias = np.array(
            [-math.inf if b <= _BAN else b for b in params.logit_bias.values()],
            dtype=np.float64,
        )
        self._adjusted: npt.NDArray[np.float64] | None = None
        self._left: npt.NDArray[np.float32] | None = None  # logits without the banned ones
        self._has_memory = bool(
            params.repetition_penalty != 1
            or params.frequency_penalty
            or params.presence_penalty
            or params.dry_multiplier
        )
        self._is_plain = not (self._has_memory or self._bias_ids.size)
        self._only_bans = not self._has_memory and bool(np.all(self._bias == -math.inf))

    def sample(
        self,
        logits: npt.NDArray[np.float32],
        allowed: npt.NDArray[np.uint32] | None = None,
        *,
        barred: Collection[int] = (),
    ) -> int:
        """Draw the next token.

        Args:
            logits: (V,); left unchanged.
            allowed: which to draw from, as of `kernels.drawing.allowed_words`; None for all. Penalties and bias cannot
                bring another one back, and where they ban all of these, they are set aside. A single one is taken
                without a draw.
            barred: where all may be drawn, all but these: where one of them comes, another is drawn from the rest.

        Raises:
            EngineError: a logit is NaN or +inf, or no token is left.
        """
        if allowed is None:
            values, rule = self.begin(logits)
            return self.end(logits, *draw_rows([values], [rule])[0], barred=barred)
        values = self._adjust(logits)
        place, highest, count = survey(values, allowed)
        if highest == -math.inf and count > 1:
            values = logits
            place, highest, count = survey(values, allowed)
        _check_highest(highest)
        if not count:
            raise EngineError("The grammar leaves no token of this model's vocabulary to go on with.")
        if count > 1:
            if highest == -math.inf:
                raise EngineError(_NOTHING_LEFT)
            rule = self._rule(values.size)
            if rule.temperature:
                place = draw(values, highest, **rule._asdict(), allowed=allowed)
        self.count(place)
        return place

    def begin(self, logits: npt.NDArray[np.float32]) -> tuple[_Floats, DrawRule]:
        """What the next token is drawn from where all may be, and how: for `kernels.drawing.draw_rows`.

        Args:
            logits: (V,); left unchanged.

        Returns:
            Values (V,), good until the next call, and the rule. `end` must follow.
        """
        return self._adjust(logits), self._rule(logits.size)

    def end(self, logits: npt.NDArray[np.float32], place: int, highest: float, *, barred: Collection[int] = ()) -> int:
        """Take what was drawn after `begin`; the token.

        Args:
            logits: those that `begin` was given.
            place: what `draw_rows` gave.
            highest: what it gave, too.
            barred: as of `sample`.

        Raises:
            EngineError: a logit is NaN or +inf, or no token is left.
        """
        _check_highest(highest)
        if highest == -math.inf:
            raise EngineError(_NOTHING_LEFT)
        if place in barred:
            places = np.ones(logits.size, np.bool_)
            places[[i for i in barred if i < logits.size]] = False
            return self.sample(logits, allowed_words(places))
        self.count(place)
        return place

    def count(self, token_id: int) -> None:
        """Remember a token of the output that was not drawn."""
        if not self._has_memory:
            return
        self._counts[token_id] += 1
        self._seen.add(token_id)
        if self._guard is not None:
            self._guard.add(token_id)

    def _rule(self, size: int) -> DrawRule:
        params = self._params
        if not params.temperature:
            return DrawRule(0.0, 0, 1.0, 0.0, 0.0)
        uniform = self._random.random()
        return DrawRule(max(params.temperature, 1e-6), min(params.top_k, size), params.top_p, params.min_p, uniform)

    def _adjust(self, logits: npt.NDArray[np.float32]) -> _Floats:
        """Logits with penalties and bias, in doubles, until the next call; the logits themselves if there are none.

        Where tokens are only banned, floats do.
        """
        if self._is_plain:
            return logits
        if self._only_bans:
            if self._left is None:
                self._left = np.empty(logits.shape, np.float32)
            self._left[:] = logits
            self._left[self._bias_ids] += np.float32(-math.inf)  # a logit that is no number stays none
            return self._left
        params = self._params
        is_repeating = params.repetition_penalty != 1 and bool(self._seen)
        is_counting = bool((params.frequency_penalty or params.presence_penalty) and self._counts)
        repeats = None if self._guard is None else self._guard.penalties()
        is_guarding = repeats is not None and repeats[0].size > 0
        if not (is_repeating or is_counting or is_guarding or self._bias_ids.size):
            return logits
        if self._adjusted is None:
            self._adjusted = np.empty(logits.shape, np.float64)
        adjusted = self._adjusted
        adjusted[:] = logits
        if is_repeating:
            seen = np.fromiter(self._seen, dtype=np.int64)
            values = adjusted[seen]
            penalty = params.repetition_penalty
            adjusted[seen] = np.where(values > 0, values / penalty, values * penalty)
        if is_counting:
            ids = np.fromiter(self._counts.keys(), dtype=np.int64)
            counts = np.fromiter(self._counts.values(), dtype=np.float64)
            adjusted[ids] -= params.frequency_penalty * counts + params.presence_penalty
        if repeats is not None:
            adjusted[repeats[0]] -= repeats[1]
        if self._bias_ids.size:
            adjusted[self._bias_ids] += self._bias
        return adjusted


def _check_highest(highest: float) -> None:
    if not highest < math.inf:
        raise EngineError("The model gave logits that are not numbers; its file or backend is damaged.")


def is_whole(value: object) -> bool:
    """Whether a value, of any type at run time, is a whole number; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def _check_id(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise RequestError(f"{name}: {value!r} is not a token id.", param=name)


def _check_number(name: str, value: Any, low: float, high: float) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number and low <= value <= high):  # NaN fails both comparisons
        raise RequestError(f"{name} must be from {low:g} to {high:g}, got {value!r}.", param=name)
