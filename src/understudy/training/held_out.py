"""What a model makes of dialogues that it was not trained on."""

from collections.abc import Sequence

import torch

from understudy.training.corpus import Corpus
from understudy.training.model import NemotronLM
from understudy.training.packing import PackedDialogues

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
            c.recipe.name: PackedDialogues(c.dialogues, c.held_out, length=length, pad=pad)
            for c in corpora
            if c.dialogues is not None and len(c.held_out)
        }

    @torch.no_grad()
    def losses(self, model: NemotronLM, *, autocast: torch.autocast) -> dict[str, float]:
        """Cross-entropy of what the character says, in nats a token, by "held_out_SOURCE"."""
        device = next(model.parameters()).device
        result = {}
        for name, packed in self._packed.items():
            total, count = 0.0, 0.0
            rows = range(min(packed.num_rows, self._max_rows))
            for start in rows[::_ROWS]:
                ids, weights, documents = (
                    torch.from_numpy(x).to(device) for x in packed.lay(rows[start : start + _ROWS])
                )
                with autocast:
                    total += float(model.loss_sum(ids, weights, documents))
                count += float(weights.sum())
            result[f"held_out_{name}"] = total / count
        return result
