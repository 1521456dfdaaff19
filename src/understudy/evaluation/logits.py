"""A model's next-token logits over a text, position by position in pieces, and what is computed from them.

All arithmetic on a whole vocabulary runs in float64 over blocks of it, so that 256k tokens take no more memory than
the backend's own float32 logits of one piece.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from understudy.engine import Backend
from understudy.engine.backend import Step

__all__ = ["divergence", "next_token_logits", "token_nats"]

_F32 = npt.NDArray[np.float32]
_F64 = npt.NDArray[np.float64]

_PIECE_VALUES = 1 << 24  # 64 MiB of float32
_MAX_PIECE = 256
_VOCAB_BLOCK = 1 << 14


def next_token_logits(
    backend: Backend, token_ids: Sequence[int], is_wanted: Sequence[bool] | None = None
) -> Iterator[tuple[range, _F32]]:
    """Logits of predicting each token from those before it.

    Args:
        backend: the model; a text's cache is its own.
        token_ids: (T,) at most a context long.
        is_wanted: (T,) for which tokens a prediction is wanted; None for all but the first, which has none.

    Yields:
        Places in the text, without a gap, and (places, V) float32 logits that predict the tokens there. Stretches
        without any wanted token are left out; others come whole.

    Raises:
        EngineError: the text is longer than the context.
    """
    cache = backend.new_cache()
    piece = max(1, min(_MAX_PIECE, _PIECE_VALUES // backend.config.vocab_size))
    for start in range(0, len(token_ids) - 1, piece):
        stop = min(start + piece, len(token_ids) - 1)
        wanted = [at for at in range(stop - start) if is_wanted is None or is_wanted[start + 1 + at]]
        num_logits = stop - start - wanted[0] if wanted else 0
        (logits,) = backend.forward([Step(cache, token_ids[start:stop], num_logits)])
        if num_logits:
            yield range(stop + 1 - num_logits, stop + 1), logits


def token_nats(logits: _F32, targets: Sequence[int]) -> _F64:
    """Cross-entropy of each target: (T, V) logits and (T,) ids to (T,) nats."""
    chosen = logits[np.arange(len(logits)), np.asarray(targets)].astype(np.float64)
    nats: _F64 = _log_sums(logits) - chosen
    return nats


def divergence(parent: _F32, model: _F32) -> tuple[_F64, npt.NDArray[np.bool_]]:
    """KL(parent || model) in nats, and whether both have the same first choice: two (T, V) to two (T,)."""
    parent_sums, model_sums = _log_sums(parent), _log_sums(model)
    total = np.zeros(len(parent))
    for start in range(0, parent.shape[1], _VOCAB_BLOCK):
        block = slice(start, start + _VOCAB_BLOCK)
        log_p = parent[:, block].astype(np.float64) - parent_sums[:, None]
        log_q = model[:, block].astype(np.float64) - model_sums[:, None]
        total += (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    return np.maximum(total, 0.0), parent.argmax(axis=1) == model.argmax(axis=1)


def _log_sums(logits: _F32) -> _F64:
    """log(sum(exp)) of each row."""
    highest = logits.max(axis=1, keepdims=True).astype(np.float64)
    total = np.zeros(len(logits))
    for start in range(0, logits.shape[1], _VOCAB_BLOCK):
        total += np.exp(logits[:, start : start + _VOCAB_BLOCK].astype(np.float64) - highest).sum(axis=1)
    sums: _F64 = highest[:, 0] + np.log(total)
    return sums
