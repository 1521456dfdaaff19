import numpy as np
import pytest

from understudy.data.dialogues import EncodedDialogues
from understudy.errors import DataError
from understudy.training.pairs import PackedPairs


def pairs(*sizes: int) -> EncodedDialogues:
    """Dialogue n holds the id 12 + n alone; its last two tokens are the answer."""
    ids = np.concatenate([np.full(size, 12 + n) for n, size in enumerate(sizes)]).astype(np.uint16)
    offsets = np.cumsum([0, *sizes])
    targets = np.zeros(len(ids), bool)
    targets[offsets[1:] - 1] = targets[offsets[1:] - 2] = True
    return EncodedDialogues(ids, targets, offsets)


def test_the_two_of_a_pair_stand_together_and_have_opposite_signs() -> None:
    packed = PackedPairs(pairs(10, 12, 5, 6, 20, 8), np.arange(6), length=35)
    ids, weights, documents = packed.lay(range(packed.num_rows))
    seen = set()
    for row in range(packed.num_rows):
        for document in range(0, int(documents[row].max()), 2):
            chosen, rejected = (
                ids[row, 1:][(documents[row] == d) & (weights[row] != 0)] for d in (document, document + 1)
            )
            assert len(chosen) == len(rejected) == 2
            assert rejected[0] == chosen[0] + 1 and chosen[0] % 2 == 0
            seen.add(int(chosen[0]) - 12)
            signs = [set(weights[row][(documents[row] == d) & (weights[row] != 0)]) for d in (document, document + 1)]
            assert signs == [{1.0}, {-1.0}]
    assert seen == {0, 2, 4}


def test_a_pair_is_never_cut() -> None:
    packed = PackedPairs(pairs(10, 12, 30, 40), np.arange(4), length=40)
    assert packed.num_left_out == 1 and packed.num_rows == 1
    with pytest.raises(DataError, match="None of 1 pairs of answers"):
        PackedPairs(pairs(30, 40), np.arange(2), length=40)


def test_an_epoch_has_every_row_once_and_the_next_another_order() -> None:
    packed = PackedPairs(pairs(*[20] * 40), np.arange(40), length=39, seed=(3,))
    first, second = (packed.draw(start, 20)[0][:, 0].tolist() for start in (0, 20))
    assert sorted(first) == sorted(second) == list(range(12, 52, 2)) and first != second
    assert packed.draw(5, 3)[0][:, 0].tolist() == first[5:8]
