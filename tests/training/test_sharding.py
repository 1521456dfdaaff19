import dataclasses

import numpy as np
import pytest
import torch

from understudy.errors import DataError
from understudy.testing import tiny_config
from understudy.training.batches import MicroBatch
from understudy.training.model import NemotronLM
from understudy.training.sharding import Ranks, gather_state, join_ranks, place_state, shard

CPU = torch.device("cpu")


def batch(rows: int) -> MicroBatch:
    ids = np.arange(rows * 5, dtype=np.int64).reshape(rows, 5)
    return MicroBatch("prose", 1.0, ids, np.full((rows, 4), 0.5, np.float32), ids[:, :4] // 2)


@pytest.mark.parametrize("rows", [1, 2, 5, 7])
def test_every_row_has_one_process(rows: int) -> None:
    whole = batch(rows)
    shares = [Ranks(rank=n, count=3, device=CPU).share(whole) for n in range(3)]
    assert sum(float(s.weights.sum()) for s in shares) == float(whole.weights.sum())
    seen = [
        (*ids, *documents)
        for s in shares
        for ids, weights, documents in zip(s.token_ids.tolist(), s.weights, s.document_ids.tolist(), strict=True)
        if weights.any()
    ]
    assert sorted(seen) == [
        (*i, *d) for i, d in zip(whole.token_ids.tolist(), whole.document_ids.tolist(), strict=True)
    ]
    assert all(len(s.token_ids) >= 1 and s.share == 1.0 for s in shares)  # all take part in gathering the weights
    plain = dataclasses.replace(whole, document_ids=None)
    assert Ranks(rank=2, count=3, device=CPU).share(plain).document_ids is None


def test_alone_nothing_is_cut() -> None:
    ranks = join_ranks()
    assert (ranks.rank, ranks.count, ranks.is_first) == (0, 1, True)
    whole = batch(3)
    assert ranks.share(whole) is whole and ranks.sum({"a": 1.5}) == {"a": 1.5}
    with pytest.raises(DataError, match="as it was"), ranks.first_alone():
        raise DataError("as it was")
    model, other = NemotronLM(tiny_config()), NemotronLM(tiny_config())
    shard(model, ranks)
    place_state(other, gather_state(model.state_dict(), ranks))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    with pytest.raises(RuntimeError, match="size mismatch"):
        place_state(NemotronLM(tiny_config(hidden_size=32)), model.state_dict())
