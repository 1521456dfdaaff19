"""What a training step makes smaller."""

from typing import Protocol

from torch import Tensor, nn

from understudy.training.batches import MicroBatch
from understudy.training.model import NemotronLM

__all__ = ["CrossEntropy", "Objective"]


class Objective(Protocol):
    """A loss of the model on a batch.

    Attributes:
        companion: what the objective trains beside the model, if anything; it is saved with the model.
    """

    companion: nn.Module | None

    def loss_sum(
        self, model: NemotronLM, token_ids: Tensor, weights: Tensor, document_ids: Tensor | None = None
    ) -> Tensor:
        """Weighted sum of the loss over positions, in nats, a scalar.

        Args:
            model: the model in training.
            token_ids: (B, T + 1) ids.
            weights: (B, T) weight of predicting `token_ids[:, 1:]`; zero where nothing is learnt.
            document_ids: (B, T) for rows of several documents, see `NemotronLM.hidden`.
        """
        ...

    def count(self, part: MicroBatch) -> float:
        """What the sum over all rows is divided by: weighted tokens, or pairs of answers."""
        ...


class CrossEntropy:
    """The next token's cross-entropy."""

    companion: nn.Module | None = None

    def loss_sum(
        self, model: NemotronLM, token_ids: Tensor, weights: Tensor, document_ids: Tensor | None = None
    ) -> Tensor:
        """See `Objective`."""
        return model.loss_sum(token_ids, weights, document_ids)

    def count(self, part: MicroBatch) -> float:
        """See `Objective`."""
        return float(part.weights.sum())
