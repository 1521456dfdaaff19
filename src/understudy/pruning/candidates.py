"""Which smaller shapes come close to a size: pure enumeration, so that a higher layer can try the best of them."""

import dataclasses
import itertools
import math
from collections.abc import Sequence

from understudy.errors import RecipeError
from understudy.model.config import NemotronConfig

__all__ = ["Candidate", "SearchSpace", "enumerate_candidates", "stored_bytes"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """Which shapes are looked at; a parent's own sizes are the largest.

    Attributes:
        hidden_step: hidden sizes are multiples of it; 256 for the K-quants of GGUF.
        intermediate_step: MLP sizes are multiples of it.
        layers: numbers of layers to look at; none: the parent's number only (width alone).
        tolerance: how far from the target a shape may be, as a share of it.
        max_skew: how much further one axis may be cut than another: each axis keeps a share of the parent's size, and
            the largest share is at most this many times the smallest (2.7 from the published 15B to its 4B).
    """

    hidden_step: int = 256
    intermediate_step: int = 256
    layers: tuple[int, ...] = ()
    tolerance: float = 0.05
    max_skew: float = 3.0

    def __post_init__(self) -> None:
        if self.hidden_step < 1 or self.intermediate_step < 1:
            raise RecipeError("hidden_step and intermediate_step must be at least 1.")
        if not 0 < self.tolerance < 1:
            raise RecipeError(f"tolerance must be between 0 and 1, got {self.tolerance}.")
        if self.max_skew < 1:
            raise RecipeError(f"max_skew must be at least 1, got {self.max_skew}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """A shape near the target.

    Attributes:
        config: the shape.
        size: parameters, or bytes, whichever the target was given in.
        skew: the largest share that an axis keeps of the parent's size, over the smallest; 1 for the parent's
            proportions.
    """

    config: NemotronConfig
    size: int
    skew: float


def stored_bytes(config: NemotronConfig, *, bits_per_weight: float, head_bits: float | None = None) -> int:
    """Bytes of a model's weights: matrices at so many bits, norms as float32.

    Args:
        config: the shape.
        bits_per_weight: of layers' matrices and the input table, scales included (4.5 for Q4_K).
        head_bits: of the output table; as the rest by default. A tied table is stored once, at the higher of the two.
    """
    table = config.vocab_size * config.hidden_size
    norms = (4 * config.num_hidden_layers + 2) * config.hidden_size
    tables = 1 if config.tie_word_embeddings else 2
    layers = config.num_parameters - norms - tables * table
    head = bits_per_weight if head_bits is None else head_bits
    table_bits = max(head, bits_per_weight) if tables == 1 else bits_per_weight + head
    return math.ceil((layers * bits_per_weight + table * table_bits) / 8) + 4 * norms


def enumerate_candidates(
    parent: NemotronConfig,
    *,
    parameters: int | None = None,
    memory_bytes: int | None = None,
    bits_per_weight: float = 4.5,
    head_bits: float | None = None,
    space: SearchSpace | None = None,
    limit: int = 8,
) -> list[Candidate]:
    """List shapes whose size is near a target, spread over the trade-offs between width and depth.

    The first is the one nearest to the parent's proportions; each further one is the shape that lies furthest, in the
    logarithms of its sizes, from those already chosen. Head size, KV heads and vocabulary are the parent's.

    Args:
        parent: the shape to cut.
        parameters: target number of parameters, tables included; either this or `memory_bytes`.
        memory_bytes: target bytes of the weights (`stored_bytes`), KV cache and buffers not counted.
        bits_per_weight: see `stored_bytes`.
        head_bits: see `stored_bytes`.
        space: which shapes are looked at.
        limit: number of candidates at most.

    Raises:
        RecipeError: no target or two, or no shape comes near.
    """
    target = parameters if memory_bytes is None else memory_bytes
    if (parameters is None) == (memory_bytes is None) or target is None or target < 1 or limit < 1:
        raise RecipeError("Name one target, a number of parameters or of bytes, of at least 1, and a limit from 1 up.")
    space = space or SearchSpace()
    found = []
    for config in _shapes(parent, space):
        size = (
            config.num_parameters
            if memory_bytes is None
            else stored_bytes(config, bits_per_weight=bits_per_weight, head_bits=head_bits)
        )
        shares = [math.exp(p) for p in _place(config, parent)]
        skew = max(shares) / min(shares)
        if abs(size - target) <= space.tolerance * target and skew <= space.max_skew:
            found.append(Candidate(config=config, size=size, skew=skew))
    if not found:
        raise RecipeError(
            f"No shape cut from this model is within {space.tolerance:.0%} of {target:,}; change the target, or allow "
            "smaller steps, more layer numbers, or a larger max_skew."
        )
    return _spread(found, parent, limit)


def _shapes(parent: NemotronConfig, space: SearchSpace) -> list[NemotronConfig]:
    groups = parent.num_key_value_heads
    axes = (
        sorted({n for n in space.layers if 1 <= n <= parent.num_hidden_layers}) or [parent.num_hidden_layers],
        _steps(space.hidden_step, parent.hidden_size),
        _steps(space.intermediate_step, parent.intermediate_size),
        range(groups, parent.num_attention_heads + 1, groups),
    )
    return [
        dataclasses.replace(
            parent, num_hidden_layers=layers, hidden_size=hidden, intermediate_size=intermediate, num_attention_heads=n
        )
        for layers, hidden, intermediate, n in itertools.product(*axes)
    ]


def _steps(step: int, largest: int) -> list[int]:
    return sorted({*range(step, largest + 1, step), largest})


def _place(config: NemotronConfig, parent: NemotronConfig) -> tuple[float, ...]:
    """Logarithm of the share that each axis keeps."""
    names = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads")
    return tuple(math.log(getattr(config, n) / getattr(parent, n)) for n in names)


def _spread(found: Sequence[Candidate], parent: NemotronConfig, limit: int) -> list[Candidate]:
    """Greedy farthest points, from the least skewed on; ties go to the less skewed, then to the earlier."""
    rest = sorted(found, key=lambda c: (c.skew, -c.size))
    chosen = [rest.pop(0)]
    places = {id(c): _place(c.config, parent) for c in found}
    nearest = {id(c): math.dist(places[id(c)], places[id(chosen[0])]) for c in rest}
    while rest and len(chosen) < limit:
        best = max(rest, key=lambda c: nearest[id(c)])
        rest.remove(best)
        chosen.append(best)
        for c in rest:
            nearest[id(c)] = min(nearest[id(c)], math.dist(places[id(c)], places[id(best)]))
    return chosen
