"""A model's tensors, made when they are asked for: a 15B is cut without ever being whole in memory."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor

from understudy.model.checkpoint import LoadedModel
from understudy.model.weights import Weight

__all__ = ["LazyTensors", "stored_tensors"]


class LazyTensors(Mapping[str, Tensor]):
    """Tensors by Hugging Face's names, each computed anew at every access; `dict(...)` makes them all."""

    def __init__(self, makers: Mapping[str, Callable[[], Tensor]]) -> None:
        self._makers = dict(makers)

    def __getitem__(self, name: str) -> Tensor:
        return self._makers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


def stored_tensors(files: LoadedModel) -> LazyTensors:
    """The tensors of model files, float32, unpacked when asked for; norms without the 1 of LayerNorm1P."""
    return LazyTensors({name: partial(_unpack, weight) for name, weight in files.weights.items()})


def _unpack(weight: Weight) -> Tensor:
    return torch.from_numpy(weight.dense())
