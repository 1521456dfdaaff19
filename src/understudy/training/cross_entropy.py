"""Cross-entropy over a large vocabulary without ever holding all logits.

The gradient is computed chunk by chunk in the forward pass, while the logits of the chunk are in cache; nothing is
recomputed and the peak is `chunk * V` instead of `B * T * V` (the idea of "Cut Your Losses", arXiv 2411.09009).
"""

from typing import Any

import torch
from torch import Tensor

__all__ = ["linear_cross_entropy"]

_CHUNK = 512


def linear_cross_entropy(hidden: Tensor, table: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of cross-entropies of `hidden @ table.T`.

    Args:
        hidden: (n, D) states.
        table: (V, D) output embedding.
        targets: (n,) ids.
        weights: (n,) factor of each term.

    Returns:
        A scalar in nats, float32.
    """
    out: Tensor = _LinearCrossEntropy.apply(hidden, table, targets, weights)  # type: ignore[no-untyped-call]
    return out


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, table: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        with torch.autocast(kind, enabled=False):
            h, w = hidden.to(dtype), table.to(dtype)
            grad_h = torch.empty_like(h) if hidden.requires_grad else None
            grad_w = torch.zeros_like(table, dtype=torch.float32) if table.requires_grad else None
            total = torch.zeros((), dtype=torch.float32, device=h.device)
            for start in range(0, h.shape[0], _CHUNK):
                part = slice(start, start + _CHUNK)
                logits = (h[part] @ w.T).float()
                goal = targets[part, None]
                lse = logits.logsumexp(-1, keepdim=True)
                total += ((lse - logits.gather(1, goal)).squeeze(1) * weights[part]).sum()
                if grad_h is not None or grad_w is not None:
                    probs = logits.sub_(lse).exp_()
                    probs.scatter_add_(1, goal, probs.new_full(goal.shape, -1.0))
                    probs = probs.mul_(weights[part, None]).to(dtype)
                    if grad_h is not None:
                        grad_h[part] = probs @ w
                    if grad_w is not None:
                        grad_w += probs.T @ h[part]
        ctx.save_for_backward(grad_h, grad_w)
        ctx.dtypes = hidden.dtype, table.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        scaled = [
            None if saved is None else (saved * grads[0]).to(dtype)
            for saved, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return scaled[0], scaled[1], None, None
