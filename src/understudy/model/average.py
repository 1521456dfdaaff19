"""The mean of models that began as one: it often is better than each of them."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from understudy.errors import ModelFileError
from understudy.model.checkpoint import LoadedModel

__all__ = ["AveragedTensors"]


class AveragedTensors(Mapping[str, npt.NDArray[np.float32]]):
    """The weighted mean of models' tensors, each made when it is asked for ("model soups", arXiv 2203.05482)."""

    def __init__(self, models: Sequence[LoadedModel], shares: Sequence[float] | None = None) -> None:
        """Check that they are of one kind.

        Args:
            models: two or more, trained from the same weights: means of strangers say nothing.
            shares: of each, above 0, sum 1; None for equal ones.

        Raises:
            ModelFileError: too few models, shares that are none, or models of different shapes or vocabularies.
        """
        shares = shares or [1 / len(models)] * len(models)
        if len(models) < 2:
            raise ModelFileError("A mean needs two models or more; name the other one too.")
        if len(shares) != len(models) or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6:
            raise ModelFileError(f"{len(models)} models need {len(models)} shares above 0 that sum to 1, not {shares}.")
        first = models[0]
        for model in models[1:]:
            if model.config != first.config or model.weights.keys() != first.weights.keys():
                raise ModelFileError(f"{model.path} has other shapes than {first.path}; a mean needs the same.")
            if model.tokenizer.definition != first.tokenizer.definition:
                raise ModelFileError(f"{model.path} has another vocabulary than {first.path}; a mean needs the same.")
        self._models, self._shares = tuple(models), tuple(shares)

    def __getitem__(self, name: str) -> npt.NDArray[np.float32]:
        total = np.zeros(self._models[0].weights[name].shape, np.float32)
        for model, share in zip(self._models, self._shares, strict=True):
            total += np.float32(share) * model.weights[name].dense()
        return total

    def __iter__(self) -> Iterator[str]:
        return iter(self._models[0].weights)

    def __len__(self) -> int:
        return len(self._models[0].weights)
