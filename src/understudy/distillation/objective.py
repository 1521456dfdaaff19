"""The distillation loss as the trainer takes it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from understudy.distillation.linear_kl import linear_kl
from understudy.distillation.recipe import DistillationRecipe
from understudy.distillation.teacher import Question, Teacher, check_question, tap_layer, third_from_end, to_goal
from understudy.errors import DataError
from understudy.model.config import NemotronConfig
from understudy.training.batches import MicroBatch
from understudy.training.model import NemotronLM

__all__ = ["Distillation"]


class Distillation:
    """Forward KL from a frozen teacher on the positions whose weight is above 0; implements `training.Objective`.

    With `cosine_weight` w, each position adds w * (1 - cos(P s, t)): s and t are the two models' residual streams
    behind the third layer from the end, normed, and P a projection that learns along (the `companion`).
    """

    def __init__(
        self, teacher: Teacher, recipe: DistillationRecipe, *, student: NemotronConfig, vocabulary: str | None = None
    ) -> None:
        """Check that the two models fit.

        Args:
            teacher: who is asked.
            recipe: the loss.
            student: shape of the model in training.
            vocabulary: hash of its tokenizer (`vocabulary_hash`), compared with the teacher's.

        Raises:
            DataError: another vocabulary, or too few layers or tokens for what the recipe asks.
        """
        config = teacher.facts.config
        if config.vocab_size != student.vocab_size or vocabulary not in (None, teacher.facts.vocabulary):
            raise DataError(
                f"The teacher ({config.vocab_size} tokens) and the student ({student.vocab_size}) have different "
                "vocabularies; distillation needs two models with the same tokenizer."
            )
        self.teacher, self.recipe = teacher, recipe
        self.question = Question(
            top_k=recipe.top_k, temperature=recipe.temperature, has_layer=bool(recipe.cosine_weight)
        )
        check_question(self.question, config)
        self.companion: nn.Module | None = None
        if recipe.cosine_weight:
            third_from_end(student)
            self.companion = _projection(student.hidden_size, config.hidden_size)

    def loss_sum(
        self, model: NemotronLM, token_ids: Tensor, weights: Tensor, document_ids: Tensor | None = None
    ) -> Tensor:
        """See `training.Objective`."""
        chosen = weights > 0
        answer = self.teacher.answer(self.question, token_ids[:, :-1], chosen, document_ids)
        with tap_layer(model, wanted=self.companion is not None) as tapped:
            hidden = model.hidden(token_ids[:, :-1], document_ids)
        loss = linear_kl(
            hidden[chosen],
            model.lm_head.weight,
            to_goal(answer, self.teacher, hidden.device),
            weights[chosen],
            targets=token_ids[:, 1:][chosen],
            temperature=self.recipe.temperature,
            cross_entropy_weight=self.recipe.cross_entropy_weight,
        )
        if self.companion:
            distance = self._distance(tapped[-1][chosen], answer["layer"].to(hidden.device))
            loss = loss + self.recipe.cosine_weight * (distance * weights[chosen]).sum()
        return loss

    def count(self, part: MicroBatch) -> float:
        """See `training.Objective`."""
        return float(part.weights.sum())

    def _distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Cosine distances (n,) of normed states, (n, D) and (n, D_t)."""
        assert self.companion is not None
        projected = self.companion(F.layer_norm(student.float(), student.shape[-1:]))
        return 1 - F.cosine_similarity(projected.float(), F.layer_norm(teacher.float(), teacher.shape[-1:]), dim=-1)


def _projection(inputs: int, outputs: int) -> nn.Linear:
    """The same start in every process and after every restart."""
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(layer.weight, std=inputs**-0.5, generator=torch.Generator().manual_seed(0))
    return layer
