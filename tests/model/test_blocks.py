"""Who owns which block of the KV cache."""

import gc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.errors import EngineError
from understudy.model.blocks import BlockCache, BlockPool


def pool(num_blocks: int = 8) -> tuple[BlockPool, list[tuple[int, int]]]:
    copies: list[tuple[int, int]] = []
    return BlockPool(num_blocks, 4, lambda a, b: copies.append((a, b))), copies


def grow(cache: BlockCache, length: int) -> None:
    num_new = length - cache.length
    cache.reserve(length)
    cache.advance(num_new)


def test_a_cache_takes_blocks_as_it_grows_and_gives_them_back() -> None:
    blocks, _ = pool()
    cache = BlockCache(blocks)
    grow(cache, 9)
    assert (cache.length, len(cache.blocks), blocks.num_free) == (9, 3, 5)
    cache.truncate(4)
    assert (cache.length, len(cache.blocks), blocks.num_free) == (4, 1, 7)
    del cache
    gc.collect()
    assert blocks.num_free == 8


def test_a_fork_shares_whole_blocks_and_copies_the_one_that_it_writes() -> None:
    blocks, copies = pool()
    first = BlockCache(blocks)
    grow(first, 10)
    second = first.fork(6)
    assert second.blocks == first.blocks[:2]
    assert blocks.num_free == 5
    shared = second.blocks[1]
    grow(second, 7)
    assert copies == [(shared, second.blocks[1])]
    assert second.blocks[0] == first.blocks[0]
    assert second.blocks[1] != first.blocks[1]
    del first
    gc.collect()
    assert blocks.num_free == 6


def test_the_first_owner_copies_too_if_the_twin_still_reads() -> None:
    blocks, copies = pool()
    first = BlockCache(blocks)
    grow(first, 6)
    twin = first.fork(6)
    grow(first, 7)
    assert len(copies) == 1
    grow(twin, 7)  # now the only owner
    assert len(copies) == 1


def test_a_full_pool_is_an_error_that_changes_nothing() -> None:
    blocks, _ = pool(2)
    cache, other = BlockCache(blocks), BlockCache(blocks)
    grow(cache, 5)
    with pytest.raises(EngineError, match="memory budget"):
        other.reserve(1)
    with pytest.raises(EngineError, match="memory budget"):
        cache.reserve(9)
    assert (cache.length, len(cache.blocks), other.blocks) == (5, 2, [])


def test_lengths_are_checked() -> None:
    cache = BlockCache(pool()[0])
    for call in (cache.truncate, cache.fork):
        with pytest.raises(ValueError, match="tokens"):
            call(1)


@given(st.lists(st.tuples(st.sampled_from("gftd"), st.integers(0, 5), st.integers(0, 14)), max_size=60))
def test_owners_add_up_whatever_happens(moves: list[tuple[str, int, int]]) -> None:
    blocks, _ = pool(12)
    caches = [BlockCache(blocks)]
    for move, which, amount in moves:
        cache = caches[which % len(caches)]
        try:
            if move == "g":
                grow(cache, cache.length + amount)
            elif move == "f":
                caches.append(cache.fork(min(amount, cache.length)))
            elif move == "t":
                cache.truncate(min(amount, cache.length))
            elif len(caches) > 1:
                caches.remove(cache)
        except EngineError:
            continue
        finally:
            cache = None
    held = [block for cache in caches for block in cache.blocks]
    for block in set(held):
        assert blocks.num_owners(block) == held.count(block)
    assert blocks.num_free == 12 - len(set(held))
    for cache in caches:
        assert len(cache.blocks) == -(-cache.length // 4)
