"""Card archives (.charx): a zip with `card.json` at its root and the files that the card names."""

import io
import zipfile
import zlib
from collections.abc import Mapping

from understudy.errors import CardError

__all__ = ["ARCHIVE_SIGNATURES", "CARD_NAME", "pack_archive", "unpack_archive"]

ARCHIVE_SIGNATURES = (b"PK\x03\x04", b"PK\x05\x06")
CARD_NAME = "card.json"
_MAX_FILES = 2000
_MAX_UNPACKED_BYTES = 128 << 20
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # the others may ask for gigabytes to unpack
_ENCRYPTED = 0x1
_PACKED_ALREADY = (".avif", ".jpeg", ".jpg", ".mp3", ".mp4", ".ogg", ".png", ".webm", ".webp")


def unpack_archive(content: bytes, *, max_card_bytes: int, source: str) -> tuple[bytes, dict[str, bytes]]:
    """Read an archive into memory; nothing is written anywhere.

    Args:
        content: the file.
        max_card_bytes: longest card.json, in bytes.
        source: what to call it in errors.

    Returns:
        The card's JSON, and the other files by their path.

    Raises:
        CardError: it is no whole zip, is encrypted, unpacks to too much, or has paths that lead out of it.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
            _check(infos, max_card_bytes, source)
            files = {info.filename: _read(archive, info) for info in infos}
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OSError, NotImplementedError, RuntimeError) as error:
        raise CardError(f"{source} is a damaged archive: {error}. Export the card again.") from error
    if CARD_NAME not in files:
        raise CardError(f"{source} has no {CARD_NAME} at its root. Put the card's JSON there.")
    return files.pop(CARD_NAME), files


def pack_archive(card: bytes, files: Mapping[str, bytes], *, source: str) -> bytes:
    """Make an archive; the same input gives the same bytes.

    Args:
        card: the card's JSON.
        files: other files by their path.
        source: what to call it in errors.

    Raises:
        CardError: a path leads out of the archive.
    """
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in ((CARD_NAME, card), *sorted(files.items())):
            _check_path(name, source)
            info = zipfile.ZipInfo(name)  # of the year 1980
            is_packed = name.lower().endswith(_PACKED_ALREADY)
            info.compress_type = zipfile.ZIP_STORED if is_packed else zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
    return target.getvalue()


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """At most what the archive's index says; `archive.read` would unpack all that the data says."""
    with archive.open(info) as file:
        return file.read(info.file_size + 1)


def _check(infos: list[zipfile.ZipInfo], max_card_bytes: int, source: str) -> None:
    if len(infos) > _MAX_FILES:
        raise CardError(f"{source} holds {len(infos)} files; at most {_MAX_FILES} are read. Take some out.")
    seen = set()
    for info in infos:
        name = info.filename
        _check_path(info.orig_filename, source)
        if name in seen:
            raise CardError(f"{source} holds {name!r} twice. Pack it again.")
        seen.add(name)
        if info.flag_bits & _ENCRYPTED:
            raise CardError(f"{source}: {name!r} is encrypted. Pack it again without a password.")
        if info.compress_type not in _METHODS:
            raise CardError(f"{source}: {name!r} is packed by method {info.compress_type}. Pack it again, as deflate.")
        if name == CARD_NAME and info.file_size > max_card_bytes:
            raise CardError(f"{source}: {name} is larger than {max_card_bytes >> 20} MiB. Take data out of the card.")
    total = sum(info.file_size for info in infos)
    if total > _MAX_UNPACKED_BYTES:
        raise CardError(
            f"{source} unpacks to {total >> 20} MiB; at most {_MAX_UNPACKED_BYTES >> 20} MiB are read. Take files out."
        )


def _check_path(name: str, source: str) -> None:
    if {"", ".", ".."} & {*name.split("/")} or {"\\", "\0", ":"} & {*name}:
        raise CardError(f"{source} holds the path {name!r}, which leads out of it. Pack it again with plain paths.")
