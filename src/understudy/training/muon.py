"""Muon (Keller Jordan, 2024): momentum whose matrix updates are orthogonalised; about half of AdamW's tokens."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from understudy.training.precision import has_fast_bf16

__all__ = ["Muon"]

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_STEPS = 5


class Muon(torch.optim.Optimizer):
    """Muon for weight matrices; everything else belongs to AdamW.

    Matrices of one shape are orthogonalised together. A parameter with an attribute `row_blocks` (packed QKV) is
    orthogonalised block by block. The step of a matrix (rows, cols) is scaled by sqrt(max(1, rows / cols)), so that
    one learning rate serves all shapes. A matrix that FSDP2 cuts over processes is gathered for its step.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], *, lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # noqa: ARG002
        """Update all parameters that have gradients."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                update = self._momentum(parameter, group)
                if group["weight_decay"]:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                if isinstance(parameter, DTensor):
                    _step_cut(parameter, update, group["lr"])
                    continue
                for target, block in zip(_blocks(parameter, parameter), _blocks(update, parameter), strict=True):
                    by_shape[block.shape].append((target, block))
            for shape, pairs in by_shape.items():
                updates = _orthogonalise(torch.stack([block for _, block in pairs]))
                scale = -group["lr"] * _shape_scale(shape)
                for (target, _), update in zip(pairs, updates, strict=True):
                    target.add_(update, alpha=scale)

    def _momentum(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        """Nesterov's direction; of a matrix that is cut over processes, this process's rows."""
        assert parameter.grad is not None
        buffer = self.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))
        gradient, memory = (x.to_local() if isinstance(x, DTensor) else x for x in (parameter.grad, buffer))
        memory.lerp_(gradient, 1 - group["momentum"])
        return gradient.lerp(memory, group["momentum"])


def _step_cut(parameter: DTensor, update: Tensor, lr: float) -> None:
    """Gather the update of a matrix that is cut over processes, orthogonalise it everywhere, keep the own rows."""
    mesh, placements = parameter.device_mesh, parameter.placements
    cut = DTensor.from_local(
        update, mesh, placements, run_check=False, shape=parameter.shape, stride=parameter.stride()
    )
    steps = [
        _orthogonalise(block[None])[0] * (-lr * _shape_scale(block.shape))
        for block in _blocks(cut.full_tensor(), parameter)
    ]
    parameter.add_(distribute_tensor(torch.cat(steps), mesh, placements, src_data_rank=None))


def _blocks(matrix: Tensor, parameter: Tensor) -> tuple[Tensor, ...]:
    """The parts that are orthogonalised apart."""
    blocks: tuple[Tensor, ...] = matrix.split(getattr(parameter, "row_blocks", None) or [parameter.shape[0]])
    return blocks


def _shape_scale(shape: torch.Size) -> float:
    return float(max(1.0, shape[0] / shape[1]) ** 0.5)


def _orthogonalise(matrices: Tensor) -> Tensor:
    """Newton-Schulz iteration towards the nearest semi-orthogonal matrices; (n, rows, cols) in and out."""
    a, b, c = _COEFFICIENTS
    x = matrices.bfloat16() if has_fast_bf16(matrices.device) else matrices.float()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(_STEPS):
        gram = x @ x.mT
        x = a * x + torch.baddbmm(gram, gram, gram, beta=b, alpha=c) @ x
    out: Tensor = (x.mT if tall else x).to(matrices.dtype)
    return out
