"""Where the documents of packed rows begin and end, in the shape that attention and rope need."""

import dataclasses

import torch
from torch import Tensor

__all__ = ["Segments", "find_segments"]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Segments:
    """The documents in a batch of packed rows.

    Attributes:
        positions: (B, T) place of each token in its own document, from 0.
        sizes: tokens of each document, row after row, where documents are attended to one by one (on CPUs).
        mask: (B, 1, T, T), True where a token may look, where whole rows are attended to (on GPUs).
    """

    positions: Tensor
    sizes: list[int] | None
    mask: Tensor | None


def find_segments(document_ids: Tensor) -> Segments:
    """Find the documents of packed rows.

    A CPU attends to each document on its own: the squares of short documents are a fraction of a row's. A GPU takes
    whole rows with a mask.

    Args:
        document_ids: (B, T), alike within a document and different from the neighbours'.
    """
    b, t = document_ids.shape
    places = torch.arange(t, device=document_ids.device).expand(b, t)
    first = torch.ones_like(document_ids, dtype=torch.bool)
    first[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
    positions = places - torch.where(first, places, 0).cummax(1).values
    if document_ids.device.type == "cpu":
        starts = first.flatten().nonzero().flatten().tolist()
        ends = [*starts[1:], b * t]
        return Segments(
            positions=positions, sizes=[end - start for start, end in zip(starts, ends, strict=True)], mask=None
        )
    number = first.cumsum(1)
    mask = (number[:, :, None] == number[:, None, :]).tril()
    return Segments(positions=positions, sizes=None, mask=mask[:, None])
