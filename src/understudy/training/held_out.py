"""What a model makes of dialogues that it was not trained on."""

from collections.abc import Sequence

import torch

from understudy.training.batches import MicroBatch
from understudy.training.corpus import Corpus
from understudy.training.model import NemotronLM
from understudy.training.objective import CrossEntropy, Objective
from understudy.training.packing import PackedDialogues
from understudy.training.pairs import PackedPairs

__all__ = ["HeldOutDialogues"]

_ROWS = 4


class HeldOutDialogues:
    """The dialogues that the recipe's sources keep from training, packed."""

    def __init__(self, corpora: Sequence[Corpus], *, length: int, pad: int, max_rows: int = 64) -> None:
        """Lays the dialogues out.

        Args:
            corpora: those without held-out dialogues are passed over.
            length: tokens of a row; longer dialogues are cut.
            pad: id that fills rows.
            max_rows: as many are read for each source at most.

        Raises:
            DataError: the held-out dialogues of a source have no line of the character.
        """
        self._max_rows = max_rows
        self._packed = {
            c.recipe.name: (PackedPairs if c.recipe.kind == "preference" else PackedDialogues)(
                c.dialogues, c.held_out, length=length, pad=pad
            )
            for c in corpora
            if c.dialogues is not None and len(c.held_out)
        }

    @torch.no_grad()
    def losses(self, model: NemotronLM, objective: Objective, *, autocast: torch.autocast) -> dict[str, float]:
        """What was not trained on, by "held_out_SOURCE".

        Args:
            model: the model.
            objective: asked about pairs of answers; dialogues are measured by cross-entropy, whatever is trained.
            autocast: the type of products.

        Returns:
            Cross-entropy of what the character says, in nats a token, and the objective's loss a pair of answers.
        """
        device = next(model.parameters()).device
        result = {}
        for name, packed in self._packed.items():
            measure = objective if isinstance(packed, PackedPairs) else CrossEntropy()
            total, count = 0.0, 0.0
            rows = range(min(packed.num_rows, self._max_rows))
            for start in rows[::_ROWS]:
                part = MicroBatch(name, 1.0, *packed.lay(rows[start : start + _ROWS]))
                ids, weights, documents = (
                    torch.from_numpy(x).to(device) for x in (part.token_ids, part.weights, part.document_ids)
                )
                with autocast:
                    total += float(measure.loss_sum(model, ids, weights, documents))
                count += measure.count(part)
            result[f"held_out_{name}"] = total / count
        return result
