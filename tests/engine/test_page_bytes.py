"""Pages as bytes: nothing is lost, and a limit is kept and used."""

import numpy as np
import pytest

from understudy.engine import KvPages
from understudy.engine.page_bytes import digest_pages, max_packed_bytes, pack_pages, unpack_pages

PAGE_TOKENS, PAGE_BYTES = 32, 9000


def pages(num_pages: int, *, value_bytes: int) -> KvPages:
    """As compressible as keys and values are; the last page is half full."""
    draw = np.random.default_rng(num_pages)
    if value_bytes == 2:
        values = draw.standard_normal((num_pages, PAGE_BYTES // 2)).astype(np.float16).view(np.uint8)
    else:
        values = np.rint(draw.standard_normal((num_pages, PAGE_BYTES)) * 40).clip(-127, 127).astype(np.int8)
    return KvPages(
        token_ids=tuple(range(2 * PAGE_TOKENS + num_pages * PAGE_TOKENS - 16)),
        start=2 * PAGE_TOKENS,
        pages=np.ascontiguousarray(values).view(np.uint8),
        kv_format="test",
        value_bytes=value_bytes,
        page_tokens=PAGE_TOKENS,
    )


def unpacked(packed: bytes, kv: KvPages) -> KvPages:
    return unpack_pages(
        packed,
        token_ids=kv.token_ids,
        start=kv.start,
        shape=kv.pages.shape,
        value_bytes=kv.value_bytes,
        kv_format=kv.kv_format,
        page_tokens=kv.page_tokens,
    )


@pytest.mark.parametrize("value_bytes", [1, 2])
def test_as_many_pages_as_fit_and_no_byte_more(value_bytes: int) -> None:
    kv = pages(12, value_bytes=value_bytes)
    count, whole = pack_pages(kv)
    assert count == 12
    assert len(whole) < 0.97 * kv.pages.size < max_packed_bytes(kv.pages.size)
    sizes = [len(pack_pages(kv.first(n))[1]) for n in range(1, 13)]
    for limit in (*sizes, *(size - 1 for size in sizes), len(whole) * 2, 0, -5):
        count, packed = pack_pages(kv, max_bytes=limit)
        assert count == sum(size <= limit for size in sizes)
        assert len(packed) <= max(0, limit)
        if count:
            kept = kv.first(count)
            assert digest_pages(unpacked(packed, kept)) == digest_pages(kept)
    assert pack_pages(kv, max_bytes=len(whole)) == (12, whole)


def test_the_first_pages_and_their_tokens() -> None:
    kv = pages(3, value_bytes=1)
    assert kv.first(3).token_ids == kv.token_ids
    two = kv.first(2)
    assert two.token_ids == kv.token_ids[: 4 * PAGE_TOKENS]
    assert (two.num_tokens, len(two.pages)) == (2 * PAGE_TOKENS, 2)
