"""What a run is watched by: bits per byte on held-out prose, and the rate of exact look-ups."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from understudy.data.dialogues import to_conversation
from understudy.data.lookup.generate import LookupGenerator
from understudy.prompt import encode_pieces, render
from understudy.tokenizer import Tokenizer
from understudy.training.model import NemotronLM

__all__ = ["LookupProbes", "bits_per_byte"]

PROBE_KINDS = ("ledger", "lore", "persona", "recall", "tool")


@torch.no_grad()
def bits_per_byte(
    model: NemotronLM, tokenizer: Tokenizer, text: str, *, length: int, autocast: torch.autocast, max_rows: int = 10**9
) -> float:
    """Cross-entropy of a text in bits a UTF-8 byte.

    The text is cut into windows of `length` tokens that do not overlap; the first token of each is not predicted and
    its bytes are not counted.
    """
    ids = tokenizer.encode(text)
    rows = min(max_rows, max(1, (len(ids) - 1) // length))
    nats, num_bytes = 0.0, 0
    device = next(model.parameters()).device
    for start in range(0, rows, 8):
        windows = [ids[r * length : (r + 1) * length] for r in range(start, min(rows, start + 8))]
        batch = torch.tensor([w for w in windows if len(w) == len(windows[0])], device=device)
        with autocast:
            nats += float(model.loss_sum(batch, torch.ones(batch.shape[0], batch.shape[1] - 1, device=device)))
        num_bytes += sum(len(tokenizer.token_bytes(i)) for row in batch.tolist() for i in row[1:])
    return nats / math.log(2) / max(1, num_bytes)


class LookupProbes:
    """Fresh look-up dialogues whose last answer contains a random value; a probe is right when every token of the
    value is the model's first choice, given the answer's true beginning.
    """

    def __init__(self, tokenizer: Tokenizer, *, seed: int, per_kind: int = 40, max_length: int = 512) -> None:
        generator = LookupGenerator(seed)
        self._probes: dict[str, list[tuple[list[int], list[int]]]] = {}
        for kind in PROBE_KINDS:
            probes = [_locate(*generator.probe(kind), tokenizer) for _ in range(per_kind)]
            self._probes[kind] = [p for p in probes if p[1] and len(p[0]) <= max_length]

    @property
    def counts(self) -> dict[str, int]:
        """Number of probes by kind."""
        return {kind: len(probes) for kind, probes in self._probes.items()}

    @torch.no_grad()
    def rates(self, model: NemotronLM, *, autocast: torch.autocast) -> dict[str, float]:
        """Share of right probes by kind."""
        device = next(model.parameters()).device
        result = {}
        for kind, probes in self._probes.items():
            right = 0
            for ids, positions in probes:
                with autocast:
                    hidden = model.hidden(torch.tensor([ids[:-1]], device=device))
                    logits = model.lm_head(hidden[0, [p - 1 for p in positions]])
                right += logits.argmax(-1).tolist() == [ids[p] for p in positions]
            result[kind] = right / max(1, len(probes))
        return result


def _locate(record: dict[str, Any], value: str, tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Token ids of a probe and the positions of the value's tokens in its last answer."""
    ids, targets = encode_pieces(render(to_conversation(record), add_generation_prompt=False), tokenizer)
    start = len(ids)
    while start and targets[start - 1]:
        start -= 1
    answer = [tokenizer.token_bytes(i) for i in ids[start:]]
    begin = b"".join(answer).lower().find(value.encode().lower())
    return ids, _overlapping(answer, begin, begin + len(value.encode()), start) if begin >= 0 else []


def _overlapping(pieces: Sequence[bytes], begin: int, end: int, offset: int) -> list[int]:
    positions, at = [], 0
    for number, piece in enumerate(pieces):
        if at < end and at + len(piece) > begin and piece:
            positions.append(offset + number)
        at += len(piece)
    return positions
