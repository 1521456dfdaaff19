"""How likely the tokens of an answer were."""

import dataclasses
import math

import numpy as np
import numpy.typing as npt

__all__ = ["MAX_TOP_LOGPROBS", "TokenLogprob", "token_logprob"]

MAX_TOP_LOGPROBS = 20


@dataclasses.dataclass(frozen=True)
class TokenLogprob:
    """One token of the answer.

    Attributes:
        token_id: the token.
        logprob: natural logarithm of its probability.
        top: the most likely tokens there and their logarithms, the likeliest first.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


def token_logprob(
    logits: npt.NDArray[np.float32], token_id: int, *, num_top: int, allowed: npt.NDArray[np.intp] | None = None
) -> TokenLogprob:
    """What the model gave a token, before temperature, penalties and bias.

    Args:
        logits: (V,) finite, or -inf.
        token_id: the token.
        num_top: how many of the most likely to tell.
        allowed: (A,) ids that a grammar left to choose from, the token among them; None for all.
    """
    values = (logits if allowed is None else logits[allowed]).astype(np.float64)
    highest = float(values.max())
    if highest == -math.inf:  # the model gave nothing to any of these
        values[:], highest = 0, 0
    logprobs = values - highest - math.log(np.exp(values - highest).sum())
    count = min(num_top, values.size)
    places = np.empty(0, np.intp)
    if count:  # of equals, the first
        places = np.flatnonzero(logprobs >= np.partition(logprobs, -count)[-count])
        places = places[np.argsort(-logprobs[places], kind="stable")][:count]
    ids = places if allowed is None else allowed[places]
    own = token_id if allowed is None else int(np.searchsorted(allowed, token_id))
    top = tuple((int(i), float(logprob)) for i, logprob in zip(ids, logprobs[places], strict=True))
    return TokenLogprob(token_id, float(logprobs[own]), top)
