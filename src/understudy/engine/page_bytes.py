"""Pages as the bytes of a file: lossless, and checked before they are trusted."""

import hashlib
import zlib

import numpy as np

from understudy.engine.paging import KvPages

__all__ = ["digest_pages", "max_packed_bytes", "pack_pages", "unpack_pages"]


def pack_pages(kv: KvPages, *, max_bytes: int | None = None) -> tuple[int, bytes]:
    """Compress pages to a zlib stream: of each page the first bytes of all values, then the second ones, and so on.

    The high bytes of values are alike, the low ones are not. Levels are told apart by how often they occur, not by what
    stands beside them, so that Huffman's code alone is as good as a search for repetitions, and three times as fast.

    Args:
        kv: the pages.
        max_bytes: of the stream; as many pages from the first on as fit. None for all.

    Returns:
        How many pages, and the stream; 0 and nothing where not even the first one fits.
    """
    packer = zlib.compressobj(6, zlib.DEFLATED, 15, 9, zlib.Z_HUFFMAN_ONLY)
    parts: list[bytes] = []
    end = b""  # of the stream, were the page before the last one
    for num_before, page in enumerate(kv.pages):
        parts.append(packer.compress(np.ascontiguousarray(page.reshape(-1, kv.value_bytes).T).data))
        if max_bytes is not None:
            new_end = packer.copy().flush()
            if sum(map(len, parts)) + len(new_end) > max_bytes:
                return num_before, b"".join([*parts[:-1], end])
            end = new_end
    return len(kv.pages), b"".join([*parts, packer.flush()])


def unpack_pages(
    packed: bytes,
    *,
    token_ids: tuple[int, ...],
    start: int,
    shape: tuple[int, int],
    value_bytes: int,
    kv_format: str,
    page_tokens: int,
) -> KvPages:
    """What `pack_pages` packed; never more memory than `shape` says.

    Raises:
        ValueError: the bytes are damaged or of another size.
    """
    size = shape[0] * shape[1]
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(packed, size + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if len(data) != size or not unpacker.eof or unpacker.unused_data:
        raise ValueError(f"the pages are not {size} bytes")
    planes = np.frombuffer(data, np.uint8).reshape(shape[0], value_bytes, -1)
    pages = np.ascontiguousarray(planes.transpose(0, 2, 1)).reshape(shape)
    return KvPages(
        token_ids=token_ids,
        start=start,
        pages=pages,
        kv_format=kv_format,
        value_bytes=value_bytes,
        page_tokens=page_tokens,
    )


def digest_pages(kv: KvPages) -> str:
    """A hash of the pages together with the tokens that they belong to."""
    found = hashlib.sha256(np.asarray([kv.start, *kv.token_ids], "<i4").tobytes())
    found.update(np.ascontiguousarray(kv.pages).data)
    return found.hexdigest()


def max_packed_bytes(num_bytes: int) -> int:
    """The most that so many bytes of pages become: what cannot be compressed grows a little."""
    return num_bytes + num_bytes // 1000 + 128 if num_bytes else 0
