from collections.abc import Sequence

import pytest

from understudy.engine.prefix import PrefixStore


class CountCache:
    def __init__(self, length: int) -> None:
        self.length = length

    def truncate(self, length: int) -> None:
        self.length = length


def store(*sequences: Sequence[int], max_sequences: int = 8, max_bytes: int = 10**6) -> PrefixStore:
    result = PrefixStore(max_sequences=max_sequences, max_bytes=max_bytes, cache_bytes_per_token=10)
    for ids in sequences:
        result.put(ids, CountCache(len(ids)))
    return result


@pytest.mark.parametrize(
    ("kept", "asked", "common"),
    [
        ([1, 2, 3], [1, 2, 3, 4], 3),
        ([1, 2, 3], [1, 2, 3], 2),  # the last token's logits are wanted
        ([1, 2, 3, 4], [1, 2, 9, 9], 2),
        ([1, 2, 3, 4], [1, 9], None),  # more would be lost than gained
        ([1, 2], [9, 2], None),
        ([1], [1], None),
    ],
)
def test_longest_common_beginning(kept: list[int], asked: list[int], common: int | None) -> None:
    cache = store(kept).take(asked)
    assert (cache.length if cache else None) == common


def test_the_best_of_several() -> None:
    kept = store([1, 2], [5, 6, 7, 8], [1, 2, 3, 4], [5, 6])
    cache = kept.take([1, 2, 3, 4, 5])
    assert cache is not None
    assert cache.length == 4


def test_a_cache_has_one_owner() -> None:
    kept = store([1, 2, 3])
    assert kept.take([1, 2, 3, 4]) is not None
    assert kept.take([1, 2, 3, 4]) is None
    assert len(kept) == 0


def test_bounds() -> None:
    assert len(store([1], [2], [3], max_sequences=2)) == 2
    assert store([1], [2], [3], max_sequences=2).take([1, 1]) is None
    assert store([1] * 6, [2] * 6, max_bytes=100).num_tokens == 6
    assert len(store([1] * 11, max_bytes=100)) == 0
    assert len(store([1], max_sequences=0)) == 0
    assert len(store([])) == 0


def test_a_longer_sequence_replaces_its_beginning() -> None:
    assert len(store([1, 2], [1, 2, 3])) == 1
