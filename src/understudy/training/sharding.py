"""One training over several processes: FSDP2 under `torchrun`, and nothing at all in a single process.

Every process draws the same batch and takes its share of the rows; weights, gradients and optimizer state are cut over
the processes. Files hold whole tensors, so that a run may go on with another number of processes.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from understudy.errors import DataError
from understudy.training.batches import MicroBatch
from understudy.training.model import NemotronLM

__all__ = ["Ranks", "gather_state", "join_ranks", "leave_ranks", "place_like", "place_state", "shard", "whole"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ranks:
    """The processes of a run.

    Attributes:
        rank: this process's number, from 0.
        count: how many there are.
        device: where this process computes.
    """

    rank: int
    count: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files and talks."""
        return self.rank == 0

    @contextlib.contextmanager
    def first_alone(self) -> Iterator[None]:
        """Let the first process through, then the others: what it caches, they find.

        Raises:
            DataError: in the others, when the first one failed.
        """
        if self.count == 1:
            yield
            return
        done = torch.zeros(1, device=self.device)
        if self.is_first:
            try:
                yield
                done.fill_(1)
            finally:
                dist.broadcast(done, 0)
            return
        dist.broadcast(done, 0)
        if not done.item():
            raise DataError("The first process stopped; its message tells why.")
        yield

    def share(self, batch: MicroBatch) -> MicroBatch:
        """This process's rows of a microbatch; a row without weight where there are too few."""
        if self.count == 1:
            return batch
        rows = slice(self.rank, None, self.count) if self.rank < len(batch.token_ids) else slice(0, 1)
        factor = 1.0 if self.rank < len(batch.token_ids) else 0.0
        arrays = {
            field.name: value[rows]
            for field in dataclasses.fields(batch)
            if hasattr(value := getattr(batch, field.name), "shape")
        }
        return dataclasses.replace(batch, **{**arrays, "weights": arrays["weights"] * factor})

    def sum(self, values: Mapping[str, float]) -> dict[str, float]:
        """Sums over the processes."""
        if self.count == 1 or not values:
            return dict(values)
        total = torch.tensor(list(values.values()), dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return dict(zip(values, total.tolist(), strict=True))


def join_ranks() -> Ranks:
    """Join the processes that `torchrun` started with this one; alone without it. May be called again."""
    cuda = torch.cuda.is_available()
    if dist.is_available() and dist.is_torchelastic_launched() and not dist.is_initialized():
        if cuda:
            torch.cuda.set_device(dist.get_node_local_rank())
        dist.init_process_group("nccl" if cuda else "gloo")
    device = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
    if dist.is_available() and dist.is_initialized():
        return Ranks(rank=dist.get_rank(), count=dist.get_world_size(), device=device)
    return Ranks(rank=0, count=1, device=device)


def leave_ranks() -> None:
    """Close what `join_ranks` opened."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def shard(model: NemotronLM, ranks: Ranks, *others: nn.Module) -> None:
    """Cut the blocks, the rest of the model, and other modules, each a unit of its own, over the processes."""
    if ranks.count == 1:
        return
    mesh: DeviceMesh = init_device_mesh(ranks.device.type, (ranks.count,))
    for layer in model.layers:
        fully_shard(layer, mesh=mesh)
    for module in (model, *others):
        fully_shard(module, mesh=mesh)
    # `hidden` gathers the tables as well, and leaves them gathered for the loss until the backward pass.
    register_fsdp_forward_method(model, "hidden")


def whole(value: Tensor) -> Tensor:
    """A tensor with the parts of all processes; every process must ask."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def place_like(value: Tensor, like: Tensor) -> Tensor:
    """This process's part of a whole tensor, cut as `like` is."""
    if isinstance(value, DTensor) or not isinstance(like, DTensor):
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def gather_state(state: Any, ranks: Ranks) -> Any:
    """A state dictionary with whole tensors, on the CPU when there are several processes; only the first keeps it."""
    if isinstance(state, Mapping):
        return {name: gather_state(value, ranks) for name, value in state.items()}
    if isinstance(state, list):
        return [gather_state(value, ranks) for value in state]
    if ranks.count == 1 or not isinstance(state, Tensor):
        return state
    value = whole(state)
    return value.cpu() if ranks.is_first else None


def place_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load whole tensors into a module that may be cut.

    Raises:
        RuntimeError: names or shapes differ.
    """
    own = module.state_dict()
    module.load_state_dict({n: place_like(v, own[n]) if n in own else v for n, v in state.items()})
