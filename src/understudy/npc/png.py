"""PNG and APNG as a list of chunks: cards live in text chunks, and the picture's own are kept byte for byte."""

import re
import struct
import zlib
from collections.abc import Mapping, Sequence

from understudy.errors import CardError

__all__ = ["PNG_SIGNATURE", "add_texts", "encode_rgb", "split_texts"]

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MEND = "Export the card again."


def split_texts(
    content: bytes, *, keywords: re.Pattern[str], max_text_bytes: int, source: str
) -> tuple[bytes, dict[str, bytes]]:
    """Take text chunks out of a picture.

    Args:
        content: the file.
        keywords: which chunks to take out; it must match the whole keyword.
        max_text_bytes: longest text, in bytes after unpacking.
        source: what to call the file in errors.

    Returns:
        The picture without these chunks, everything else as it was, and the texts by keyword (the first of each).

    Raises:
        CardError: the file is damaged, or a text is longer than allowed.
    """
    kept = [PNG_SIGNATURE]
    texts: dict[str, bytes] = {}
    start = len(PNG_SIGNATURE)
    is_first, has_pixels, is_ended = True, False, False
    while not is_ended:
        kind, data, end = _chunk(content, start, source)
        if is_first and kind != b"IHDR":
            raise CardError(f"{source} is a damaged PNG: it does not begin with its IHDR chunk. {_MEND}")
        is_first = False
        has_pixels |= kind == b"IDAT"
        is_ended = kind == b"IEND"
        keyword = data.split(b"\0", 1)[0].decode("latin-1") if kind in (b"tEXt", b"zTXt", b"iTXt") else ""
        if keyword and keywords.fullmatch(keyword):
            texts.setdefault(keyword, _text(kind, data[len(keyword) + 1 :], max_text_bytes, f"{source}: {keyword!r}"))
        else:
            kept.append(content[start:end])
        start = end
    if not has_pixels:
        raise CardError(f"{source} is a damaged PNG: it has no picture (IDAT chunk). {_MEND}")
    return b"".join([*kept, content[start:]]), texts


def add_texts(picture: bytes, texts: Mapping[str, bytes], *, source: str) -> bytes:
    """Put tEXt chunks before a picture's end.

    Args:
        picture: a PNG or APNG.
        texts: Latin-1 texts by keyword of 1 to 79 characters.
        source: what to call the picture in errors.

    Raises:
        CardError: the picture is no whole PNG, or a keyword is too long.
    """
    if not picture.startswith(PNG_SIGNATURE):
        raise CardError(f"{source} is no PNG. Give a PNG picture.")
    start = len(PNG_SIGNATURE)
    while True:
        kind, _, end = _chunk(picture, start, source)
        if kind == b"IEND":
            break
        start = end
    chunks = []
    for keyword, text in texts.items():
        if not 1 <= len(keyword.encode("latin-1", "replace")) <= 79:
            raise CardError(f"The name {keyword!r} is too long for a PNG's text (79 letters). Write a .charx instead.")
        chunks.append(_packed(b"tEXt", keyword.encode("latin-1", "replace") + b"\0" + text))
    return b"".join([picture[:start], *chunks, picture[start:]])


def encode_rgb(rows: Sequence[bytes]) -> bytes:
    """Make a PNG of rows of red, green and blue bytes, all of one length."""
    width, height = len(rows[0]) // 3, len(rows)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows), 9)
    chunks = [_packed(b"IHDR", header), _packed(b"IDAT", pixels), _packed(b"IEND", b"")]
    return PNG_SIGNATURE + b"".join(chunks)


def _packed(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _chunk(content: bytes, start: int, source: str) -> tuple[bytes, bytes, int]:
    """A chunk's kind and data, and where the next one starts."""
    if start + 12 > len(content):
        raise CardError(f"{source} is a truncated PNG: it ends before its IEND chunk. Fetch or export it again.")
    length, kind = struct.unpack_from(">I4s", content, start)
    end = start + 12 + length
    if end > len(content):
        raise CardError(
            f"{source} is a truncated PNG: its chunk {_name(kind)} has {length} bytes, and {len(content) - start - 12} "
            "are left. Fetch or export it again."
        )
    (sum_told,) = struct.unpack_from(">I", content, end - 4)
    if sum_told != zlib.crc32(memoryview(content)[start + 4 : end - 4]):
        raise CardError(f"{source} is a damaged PNG: the checksum of its chunk {_name(kind)} is wrong. {_MEND}")
    return kind, content[start + 8 : end - 4], end


def _name(kind: bytes) -> str:
    return repr(kind.decode("latin-1"))


def _text(kind: bytes, data: bytes, max_bytes: int, source: str) -> bytes:
    """The text behind a keyword and its zero byte."""
    is_packed = kind == b"zTXt"
    if is_packed:
        data = data[1:]  # the method: there is only one
    elif kind == b"iTXt":
        is_packed = data[:1] == b"\x01"
        parts = data[2:].split(b"\0", 2)  # language, translated keyword, text
        if len(parts) < 3:
            raise CardError(f"{source} is a damaged iTXt chunk. {_MEND}")
        data = parts[2]
    if is_packed:
        unpacker = zlib.decompressobj()
        try:
            data = unpacker.decompress(data, max_bytes + 1)
        except zlib.error as error:
            raise CardError(f"{source} cannot be unpacked: {error}. {_MEND}") from error
        if len(data) <= max_bytes and not unpacker.eof:
            raise CardError(f"{source} is packed and ends too early. {_MEND}")
    if len(data) > max_bytes:
        raise CardError(f"{source} is longer than {max_bytes >> 20} MiB. Take pictures and other data out of the card.")
    return data
