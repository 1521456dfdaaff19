"""What a training step makes smaller."""

from typing import Protocol

from torch import Tensor

from understudy.training.model import NemotronLM

__all__ = ["CrossEntropy", "Objective"]


class Objective(Protocol):
    """A loss of the model on a batch."""

    def loss_sum(self, model: NemotronLM, token_ids: Tensor, weights: Tensor) -> Tensor:
        """Weighted sum of the loss over positions, in nats, a scalar.

        Args:
            model: the model in training.
            token_ids: (B, T + 1) ids.
            weights: (B, T) weight of predicting `token_ids[:, 1:]`; zero where nothing is learnt.
        """
        ...


class CrossEntropy:
    """The next token's cross-entropy."""

    def loss_sum(self, model: NemotronLM, token_ids: Tensor, weights: Tensor) -> Tensor:
        """See `Objective`."""
        return model.loss_sum(token_ids, weights)
