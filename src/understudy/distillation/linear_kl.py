"""KL divergence between two output tables' distributions without ever holding all logits.

As in `training.cross_entropy` the gradient is computed chunk by chunk in the forward pass: the peak is the two models'
logits of one chunk of tokens, in the type of the products, and a few float32 columns of them, in place of four times
B * T * V float32. The loss is the forward KL(teacher || student) of Hinton et al. (arXiv 1503.02531), times T^2, so
that the gradient keeps its size when the temperature changes; Minitron (arXiv 2407.14679) takes T = 1.
"""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from understudy.errors import DataError

__all__ = ["FullGoal", "TopGoal", "linear_kl", "top_goal"]

_CHUNK = 512
_COLUMNS = 16384
"""Columns of a chunk that are unpacked to float32 at a time."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FullGoal:
    """The teacher's whole distribution, as states in front of its output table.

    Attributes:
        states: (n, D_t) the teacher's normed last states.
        table: (V, D_t) its output table.
    """

    states: Tensor
    table: Tensor

    @property
    def vocab_size(self) -> int:
        """Tokens that the teacher knows."""
        return self.table.shape[0]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TopGoal:
    """The teacher's k likeliest tokens, and all others as one bucket: its mass is known, how it is spread is not.

    Against the renormalised top k, the other way to cut, nothing pushes the student's mass into the k tokens beyond
    what the teacher gives them, and the loss is a lower bound of the full KL.

    Attributes:
        values: (n, k) log-probabilities at the temperature of the loss.
        indices: (n, k) ids, int64.
        rest: (n,) log-probability of all other tokens together.
        vocab_size: tokens that the teacher knows; above k.
    """

    values: Tensor
    indices: Tensor
    rest: Tensor
    vocab_size: int


def linear_kl(
    hidden: Tensor,
    table: Tensor,
    goal: FullGoal | TopGoal,
    weights: Tensor,
    *,
    targets: Tensor | None = None,
    temperature: float = 1.0,
    cross_entropy_weight: float = 0.0,
    chunk: int = _CHUNK,
) -> Tensor:
    """Weighted sum of T^2 * KL(teacher || student), the student's logits being `hidden @ table.T`.

    Args:
        hidden: (n, D) states of the student.
        table: (V, D) its output table.
        goal: the teacher's distributions; no gradient flows there.
        weights: (n,) factor of each term.
        targets: (n,) next ids; needed when `cross_entropy_weight` is not 0.
        temperature: T, divides both models' logits.
        cross_entropy_weight: c from 0 to 1; the loss is (1 - c) * T^2 * KL + c * cross-entropy (at temperature 1).
        chunk: tokens whose logits are held at a time.

    Returns:
        A scalar in nats, float32 (float64 for float64 states).

    Raises:
        DataError: the two vocabularies differ.
    """
    if goal.vocab_size != table.shape[0]:
        raise DataError(
            f"The teacher knows {goal.vocab_size} tokens, the student {table.shape[0]}; "
            "distillation needs two models with the same tokenizer and vocabulary."
        )
    assert targets is not None or not cross_entropy_weight
    if targets is None:
        targets = torch.zeros(len(hidden), dtype=torch.int64, device=hidden.device)
    plan = _Plan(temperature, cross_entropy_weight, chunk)
    out: Tensor = _LinearKL.apply(hidden, table, goal, weights, targets, plan)  # type: ignore[no-untyped-call]
    return out


@torch.no_grad()
def top_goal(states: Tensor, table: Tensor, *, top_k: int, temperature: float = 1.0, chunk: int = _CHUNK) -> TopGoal:
    """Cut the distributions of `states @ table.T` to their likeliest tokens.

    Args:
        states: (n, D_t) normed last states.
        table: (V, D_t) output table.
        top_k: tokens to keep, from 1 to V - 1.
        temperature: of the loss that the goal is for.
        chunk: tokens whose logits are held at a time.

    Raises:
        DataError: `top_k` leaves nothing out.
    """
    if not 1 <= top_k < table.shape[0]:
        raise DataError(f"top_k must be from 1 to {table.shape[0] - 1} (the vocabulary less one), got {top_k}.")
    dtype = _product_dtype(states)
    with torch.autocast(states.device.type, enabled=False):
        h, w = states.to(dtype), table.to(dtype)
        values, indices, rest = [], [], []
        for part in h.split(chunk):
            logits = part @ w.T
            top, ids = logits.topk(top_k)
            top, other, total = _split_mass(logits, top, ids, temperature)
            values.append(top - total)
            indices.append(ids)
            rest.append((other - total).squeeze(1))
    if not values:
        acc = torch.promote_types(dtype, torch.float32)
        empty = states.new_zeros((0, top_k), dtype=acc)
        return TopGoal(values=empty, indices=empty.long(), rest=empty[:, 0], vocab_size=table.shape[0])
    return TopGoal(
        values=torch.cat(values), indices=torch.cat(indices), rest=torch.cat(rest), vocab_size=table.shape[0]
    )


@dataclasses.dataclass(frozen=True)
class _Plan:
    """The loss without its tensors."""

    temperature: float
    cross_entropy_weight: float
    chunk: int


def _product_dtype(hidden: Tensor) -> torch.dtype:
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype


class _LinearKL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        table: Tensor,
        goal: FullGoal | TopGoal,
        weights: Tensor,
        targets: Tensor,
        plan: _Plan,
    ) -> Tensor:
        dtype = _product_dtype(hidden)
        acc = torch.promote_types(dtype, torch.float32)
        need_h, need_w = ctx.needs_input_grad[:2]
        with torch.autocast(hidden.device.type, enabled=False):
            h, w = hidden.detach().to(dtype), table.detach().to(dtype)
            goal_table = goal.table.to(dtype) if isinstance(goal, FullGoal) else None
            grad_h = torch.empty_like(h) if need_h else None
            grad_w = torch.zeros(table.shape, dtype=acc, device=table.device) if need_w else None
            total = torch.zeros((), dtype=acc, device=h.device)
            for start in range(0, len(h), plan.chunk):
                part = slice(start, start + plan.chunk)
                logits = h[part] @ w.T
                factors, goals = weights[part, None].to(acc), targets[part, None]
                if isinstance(goal, FullGoal):
                    assert goal_table is not None
                    other = goal.states[part].to(dtype) @ goal_table.T
                    losses = _full_chunk(logits, other, factors, goals, plan)
                    del other
                else:
                    cut = (goal.values[part], goal.indices[part], goal.rest[part, None])
                    losses = _top_chunk(logits, cut, factors, goals, plan)
                total += (losses * factors).sum()
                if grad_h is not None:
                    grad_h[part] = logits @ w  # the logits' gradient stands where they stood
                if grad_w is not None:
                    for first in range(0, w.shape[0], _COLUMNS):
                        columns = slice(first, first + _COLUMNS)
                        grad_w[columns] += logits[:, columns].T @ h[part]
        ctx.grads, ctx.dtypes = (grad_h, grad_w), (hidden.dtype, table.dtype)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        # Scaled in place and given away: a second copy of a (V, D) gradient would be the peak.
        (grad_h, grad_w), ctx.grads = ctx.grads, None
        scaled = [
            g.mul_(grads[0]).to(dtype) if g is not None else None
            for g, dtype in zip((grad_h, grad_w), ctx.dtypes, strict=True)
        ]
        return (*scaled, None, None, None, None)


def _full_chunk(logits: Tensor, other: Tensor, factors: Tensor, targets: Tensor, plan: _Plan) -> Tensor:
    """Losses (n, 1) of a chunk; its logits (n, V) are overwritten by their weighted gradient."""
    t, c = plan.temperature, plan.cross_entropy_weight
    total, other_total = _log_total(logits, t), _log_total(other, t)
    plain = total if t == 1.0 else _log_total(logits, 1.0)
    losses = c * (plain - logits.gather(1, targets).to(plain.dtype))
    for first in range(0, logits.shape[1], _COLUMNS):
        columns = slice(first, first + _COLUMNS)
        raw = logits[:, columns].to(total.dtype)
        student = raw / t - total
        teacher = other[:, columns].to(total.dtype).div_(t).sub_(other_total)
        probs = teacher.exp()
        losses += (1 - c) * t * t * teacher.sub_(student).mul_(probs).sum(1, keepdim=True)
        gradient = student.exp_().sub_(probs).mul_((1 - c) * t)
        if c:
            _add_cross_entropy(gradient, raw, plain, targets - first, c)
        logits[:, columns] = gradient.mul_(factors)
    return losses


def _top_chunk(
    logits: Tensor, goal: tuple[Tensor, Tensor, Tensor], factors: Tensor, targets: Tensor, plan: _Plan
) -> Tensor:
    """Losses (n, 1) of a chunk; its logits (n, V) are overwritten by their weighted gradient."""
    t, c = plan.temperature, plan.cross_entropy_weight
    values, indices, rest = goal
    raw_top = logits.gather(1, indices)
    target = logits.gather(1, targets)
    top, other, total = _split_mass(logits, raw_top, indices, t)
    logits.scatter_(1, indices, raw_top)  # the split left holes there
    plain = total if t == 1.0 else _log_total(logits, 1.0)
    student, probs = top - total, values.exp()
    kl = (probs * (values - student)).sum(1, keepdim=True) + rest.exp() * (rest - (other - total))
    losses = (1 - c) * t * t * kl + c * (plain - target.to(plain.dtype))
    gradient_top = (student.exp() - probs).mul_((1 - c) * t)
    if c:
        gradient_top += c * ((raw_top.to(plain.dtype) - plain).exp() - (indices == targets).to(plain.dtype))
    for first in range(0, logits.shape[1], _COLUMNS):
        columns = slice(first, first + _COLUMNS)
        raw = logits[:, columns].to(total.dtype)
        scaled = raw / t
        gradient = (scaled - total).exp_().sub_((scaled - other + rest).exp_()).mul_((1 - c) * t)
        if c:
            _add_cross_entropy(gradient, raw, plain, targets - first, c)
        logits[:, columns] = gradient.mul_(factors)
    logits.scatter_(1, indices, gradient_top.mul_(factors).to(logits.dtype))
    return losses


def _add_cross_entropy(gradient: Tensor, raw: Tensor, total: Tensor, targets: Tensor, weight: float) -> None:
    """Add the cross-entropy's gradient to some columns; `targets` (n, 1) count from the first of them."""
    gradient.add_((raw - total).exp_(), alpha=weight)
    inside = (targets >= 0) & (targets < gradient.shape[1])
    gradient.scatter_add_(1, targets.clamp(0, gradient.shape[1] - 1), inside.to(gradient.dtype) * -weight)


def _split_mass(logits: Tensor, top: Tensor, indices: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Scaled logits of some tokens (n, k), and the log of all others' and of all mass (n, 1).

    The others' mass is summed, not found by subtraction, which would lose its digits. Writes -inf over the tokens.
    """
    acc = torch.promote_types(logits.dtype, torch.float32)
    top = top.to(acc) / temperature
    other = _log_total(logits.scatter_(1, indices, float("-inf")), temperature)
    return top, other, torch.logaddexp(other, top.logsumexp(1, keepdim=True))


def _log_total(logits: Tensor, temperature: float) -> Tensor:
    """Log of the sum of exp(logits / T) over the rows of (n, V), in float32 or better, few columns at a time."""
    acc = torch.promote_types(logits.dtype, torch.float32)
    highest = logits.amax(1, keepdim=True).to(acc) / temperature
    total = torch.zeros_like(highest)
    for columns in logits.split(_COLUMNS, 1):
        total += (columns.to(acc) / temperature).sub_(highest).exp_().sum(1, keepdim=True)
    return highest + total.log_()
