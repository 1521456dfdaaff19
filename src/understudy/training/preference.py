"""Learning from pairs of answers: direct preference optimization (DPO, Rafailov et al., arXiv 2305.18290)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from understudy.training.batches import MicroBatch
from understudy.training.cross_entropy import linear_cross_entropy
from understudy.training.model import NemotronLM
from understudy.training.recipe import PreferenceRecipe

__all__ = ["DirectPreference"]


class DirectPreference:
    """DPO against a frozen copy of the first weights; implements `Objective`.

    A pair stands in a row as two documents, the chosen one with an even number and the rejected one with the next;
    the weights of their answers are 1 and -1. Rows without a negative weight are learnt by cross-entropy.
    """

    companion: nn.Module | None = None

    def __init__(self, reference: NemotronLM, recipe: PreferenceRecipe) -> None:
        """Keep the reference.

        Args:
            reference: the model that training begins with; it is frozen.
            recipe: the loss.
        """
        self.reference = reference.eval().requires_grad_(False)
        self.recipe = recipe

    def count(self, part: MicroBatch) -> float:
        """See `Objective`: pairs, or weighted tokens where there are none."""
        if part.document_ids is None or not (part.weights < 0).any():
            return float(part.weights.sum())
        return float(_owners(torch.from_numpy(part.weights), torch.from_numpy(part.document_ids)).max() // 2 + 1)

    def loss_sum(
        self, model: NemotronLM, token_ids: Tensor, weights: Tensor, document_ids: Tensor | None = None
    ) -> Tensor:
        """See `Objective`.

        A pair adds -log sigmoid(beta * (g(chosen) - g(rejected))) - nll_weight * log p(chosen) / its tokens, where g
        is log p - log q of an answer, p its likelihood by the model and q by the reference.
        """
        if document_ids is None or not bool((weights < 0).any()):
            return model.loss_sum(token_ids, weights, document_ids)
        chosen = weights != 0
        owners, goals = _owners(weights, document_ids), token_ids[:, 1:][chosen]
        hidden = model.hidden(token_ids[:, :-1], document_ids)[chosen]
        with torch.no_grad():
            before = self.reference.hidden(token_ids[:, :-1], document_ids)[chosen]
            now = _log_likelihoods(hidden, model, goals, owners)
            gain = now - _log_likelihoods(before, self.reference, goals, owners)
            margin = self.recipe.beta * (gain[:, 0] - gain[:, 1])
            sizes = torch.zeros_like(now).view(-1).index_add_(0, owners, torch.ones_like(owners, dtype=now.dtype))
            each_nll = self.recipe.nll_weight / sizes.view(-1, 2)[:, 0]
            value = (F.softplus(-margin) - each_nll * now[:, 0]).sum()
            push = self.recipe.beta * torch.sigmoid(-margin)
            factors = torch.stack((push + each_nll, -push), 1).view(-1)[owners]
        # The same gradient from a weighted cross-entropy, which never holds all logits; its value is exchanged.
        surrogate = linear_cross_entropy(hidden, model.lm_head.weight, goals, factors)
        out: Tensor = surrogate + (value - surrogate.detach())
        return out


def _owners(weights: Tensor, document_ids: Tensor) -> Tensor:
    """(n,) for each token with a weight: 2 p for the chosen answer of pair p, 2 p + 1 for the rejected one."""
    chosen = weights != 0
    rows = torch.arange(len(weights), device=weights.device)[:, None].expand_as(weights)[chosen]
    documents = document_ids[chosen]
    stride = int(document_ids.max()) // 2 + 1
    _, pairs = (rows * stride + documents // 2).unique(return_inverse=True)
    owners: Tensor = 2 * pairs + documents % 2
    return owners


def _log_likelihoods(hidden: Tensor, model: NemotronLM, goals: Tensor, owners: Tensor) -> Tensor:
    """(pairs, 2) log-likelihoods of whole answers, float32, from the states (n, D) in front of their tokens."""
    out = torch.zeros(int(owners.max()) // 2 * 2 + 2, device=hidden.device)
    for part in range(0, len(hidden), 512):
        logits = model.lm_head(hidden[part : part + 512]).float()
        likely = -F.cross_entropy(logits, goals[part : part + 512], reduction="none")
        out.index_add_(0, owners[part : part + 512], likely)
    return out.view(-1, 2)
