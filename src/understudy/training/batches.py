"""Which tokens a step sees: a pure function of (recipe, step), so that a resumed run goes on exactly."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from understudy.training.corpus import Corpus
from understudy.training.packing import PackedDialogues
from understudy.training.pairs import PackedPairs
from understudy.training.recipe import StageRecipe

__all__ = ["Batcher", "MicroBatch"]

_BUCKET = 64


@dataclasses.dataclass(frozen=True)
class MicroBatch:
    """Rows of one length.

    Attributes:
        source: where they come from.
        share: of the step's loss.
        token_ids: (B, T + 1) int64.
        weights: (B, T) float32, weight of predicting `token_ids[:, 1:]`; negative on rejected answers.
        document_ids: (B, T) int64 where rows hold several documents: the number of each token's own in its row.
    """

    source: str
    share: float
    token_ids: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]
    document_ids: npt.NDArray[np.int64] | None = None


class Batcher:
    """Draws the microbatches of each step; dialogues are grouped by length, so that little is padding."""

    def __init__(self, corpora: Sequence[Corpus], *, seed: int, pad: int) -> None:
        self._corpora = {c.recipe.name: c for c in corpora}
        self._seed = seed
        self._pad = pad
        self._seen = {
            c.recipe.name: np.unique(c.stream[: 1 << 20])
            for c in corpora
            if c.stream is not None and c.recipe.kind == "repeat"
        }
        self._buckets = {c.recipe.name: _bucket_index(c) for c in corpora if c.dialogues is not None}
        self._packed: dict[tuple[str, int], PackedDialogues | PackedPairs] = {}

    def draw(self, stage: StageRecipe, step: int) -> list[MicroBatch]:
        """The step's microbatches, one for each source of the mixture."""
        total = sum(stage.mixture.values())
        batch = []
        for number, (name, weight) in enumerate(sorted(stage.mixture.items())):
            if weight > 0:
                tokens = int(stage.batch_tokens * weight / total)
                corpus = self._corpora[name]
                if corpus.recipe.kind == "preference" or (stage.packing and corpus.dialogues is not None):
                    rows = max(1, tokens // stage.length)
                    drawn = self._pack(name, stage.length).draw(step * rows, rows)
                    batch.append(MicroBatch(name, weight / total, *drawn))
                    continue
                rng = np.random.default_rng((self._seed, step, number))
                draw = {"text": self._text, "repeat": self._repeat}.get(corpus.recipe.kind, self._dialogues)
                ids, weights = draw(corpus, stage.length, tokens, rng)
                batch.append(MicroBatch(name, weight / total, ids, weights))
        return batch

    def _pack(self, name: str, length: int) -> PackedDialogues | PackedPairs:
        if (name, length) not in self._packed:
            corpus, seed = self._corpora[name], (self._seed, *name.encode())
            assert corpus.dialogues is not None
            if corpus.recipe.kind == "preference":
                self._packed[name, length] = PackedPairs(
                    corpus.dialogues, corpus.members, length=length, pad=self._pad, seed=seed
                )
            else:
                self._packed[name, length] = PackedDialogues(
                    corpus.dialogues,
                    corpus.members,
                    length=length,
                    prompt_weight=corpus.recipe.prompt_weight,
                    pad=self._pad,
                    seed=seed,
                )
        return self._packed[name, length]

    def _text(
        self, corpus: Corpus, length: int, tokens: int, rng: np.random.Generator
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        assert corpus.stream is not None
        rows = max(1, tokens // length)
        starts = rng.integers(0, len(corpus.stream) - length - 1, size=rows)
        ids = np.stack([corpus.stream[s : s + length + 1] for s in starts]).astype(np.int64)
        return ids, np.ones((rows, length), np.float32)

    def _repeat(
        self, corpus: Corpus, length: int, tokens: int, rng: np.random.Generator
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Rows whose stretch at a random place is said again after a random gap; half of them random tokens."""
        ids, weights = self._text(corpus, length, tokens, rng)
        weights[:] = 0.0
        for row in range(len(ids)):
            if row % 2:
                ids[row] = rng.choice(self._seen[corpus.recipe.name], size=length + 1)
            size = int(rng.integers(8, length // 2))
            first = int(rng.integers(0, length + 1 - 2 * size))
            second = int(rng.integers(first + size, length + 2 - size))
            ids[row, second : second + size] = ids[row, first : first + size]
            weights[row, second : second + size - 1] = 1.0
        return ids, weights

    def _dialogues(
        self, corpus: Corpus, length: int, tokens: int, rng: np.random.Generator
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        assert corpus.dialogues is not None
        dialogues, buckets = corpus.dialogues, self._buckets[corpus.recipe.name]
        usable = {b: m for b, m in buckets.items() if b <= length} or {max(buckets): buckets[max(buckets)]}
        sizes = np.asarray([len(m) * b for b, m in usable.items()], np.float64)
        bucket = int(rng.choice(np.asarray(list(usable)), p=sizes / sizes.sum()))
        members = usable[bucket]
        rows = max(1, tokens // bucket)
        chosen = rng.choice(members, size=rows, replace=rows > len(members))
        ids = np.full((rows, bucket + 1), self._pad, np.int64)
        weights = np.zeros((rows, bucket), np.float32)
        for row, index in enumerate(chosen):
            start, end = dialogues.offsets[index], dialogues.offsets[index + 1]
            size = min(int(end - start), bucket + 1)
            ids[row, :size] = dialogues.token_ids[start : start + size]
            targets = dialogues.targets[start + 1 : start + size]
            weights[row, : size - 1] = np.where(targets, 1.0, corpus.recipe.prompt_weight)
        if not weights.any():
            weights[:, 0] = 1.0
        longest = int(np.nonzero(weights.any(0))[0][-1]) + 1
        return ids[:, : longest + 1], weights[:, :longest]


def _bucket_index(corpus: Corpus) -> Mapping[int, npt.NDArray[np.int64]]:
    assert corpus.dialogues is not None
    lengths = np.diff(corpus.dialogues.offsets)[corpus.members]
    rounded = -(-(lengths - 1) // _BUCKET) * _BUCKET
    return {int(b): corpus.members[rounded == b] for b in np.unique(rounded)}
