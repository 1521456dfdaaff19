from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.engine.prefix import PrefixStore, num_common
from understudy.testing import ListCache


def filled(ids: Sequence[int]) -> ListCache:
    cache = ListCache()
    cache.token_ids = list(ids)
    return cache


def store(*sequences: Sequence[int], max_sequences: int = 8, max_bytes: int = 10**6) -> PrefixStore:
    result = PrefixStore(max_sequences=max_sequences, max_bytes=max_bytes, cache_bytes_per_token=10)
    for ids in sequences:
        result.put(ids, filled(ids))
    return result


def common(kept: PrefixStore, asked: list[int]) -> int:
    return kept.longest(asked)[0]


@pytest.mark.parametrize(
    ("kept", "asked", "expected"),
    [
        ([1, 2, 3], [1, 2, 3, 4], 3),
        ([1, 2, 3], [1, 2, 3], 2),  # the last token's logits are wanted
        ([1, 2, 3, 4], [1, 2, 9, 9], 2),
        ([1, 2, 3, 4], [1, 9], 1),
        ([1, 2], [9, 2], 0),
        ([1], [1], 0),
    ],
)
def test_longest_common_beginning(kept: list[int], asked: list[int], expected: int) -> None:
    assert common(store(kept), asked) == expected
    assert num_common(tuple(kept), tuple(asked[:-1])) == expected


@given(st.lists(st.integers(0, 1), max_size=100), st.integers(0, 100), st.lists(st.integers(0, 1), max_size=40))
def test_common_tokens_are_counted_one_by_one(first: list[int], length: int, rest: list[int]) -> None:
    second = first[:length] + rest
    expected = next((n for n, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), None)
    assert num_common(tuple(first), tuple(second)) == (min(len(first), len(second)) if expected is None else expected)


def test_the_best_of_several() -> None:
    kept = store([1, 2], [5, 6, 7, 8], [1, 2, 3, 4], [5, 6])
    length, cache = kept.longest([1, 2, 3, 4, 5])
    assert length == 4
    assert isinstance(cache, ListCache)
    assert cache.token_ids == [1, 2, 3, 4]


def test_bounds() -> None:
    assert len(store([1], [2], [3], max_sequences=2)) == 2
    assert common(store([1, 1], [2], [3], max_sequences=2), [1, 1]) == 0
    assert store([1] * 6, [2] * 6, max_bytes=100).num_tokens == 6
    assert len(store([1] * 11, max_bytes=100)) == 0
    assert len(store([1], max_sequences=0)) == 0
    assert len(store([])) == 0


def test_a_longer_sequence_replaces_its_beginning() -> None:
    assert len(store([1, 2], [1, 2, 3])) == 1


def test_what_was_used_last_goes_last() -> None:
    kept = store([1, 1], [2, 2], [3, 3])
    _, cache = kept.longest([1, 1, 5])
    assert cache is not None
    kept.touch(cache)
    assert kept.drop_oldest()
    assert (common(kept, [1, 1, 5]), common(kept, [2, 2, 5]), common(kept, [3, 3, 5])) == (2, 0, 2)
    assert kept.drop_oldest() and kept.drop_oldest()
    assert not kept.drop_oldest()


@given(st.lists(st.tuples(st.integers(0, 3), st.lists(st.integers(0, 2), max_size=7)), max_size=30))
def test_the_tree_finds_what_a_search_of_all_finds(steps: list[tuple[int, list[int]]]) -> None:
    kept = store(max_sequences=5)
    for what, ids in steps:
        if what == 0:
            kept.drop_oldest()
        elif what == 1:
            kept.put(ids, filled(ids))
        caches = [cache for cache in kept.caches() if isinstance(cache, ListCache)]
        length, cache = kept.longest(ids)
        shared = [num_common(tuple(c.token_ids), tuple(ids[:-1])) for c in caches]
        assert length == max(shared, default=0)
        assert (cache is None) == (length == 0)
        if isinstance(cache, ListCache):
            assert cache in caches
            assert cache.token_ids[:length] == ids[:length]
            kept.touch(cache)
        assert kept.num_tokens == sum(c.length for c in caches)
