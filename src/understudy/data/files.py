"""Reading packed corpora: zstd, JSON lines, tar archives of texts."""

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from understudy.errors import DataError

__all__ = ["read_bytes", "read_json_lines", "read_tar_texts"]


def read_bytes(path: Path) -> bytes:
    """Content of a file; `.zst` is unpacked, and `FILE.zst` stands in for a missing FILE.

    Raises:
        DataError: no such file, or damaged.
    """
    packed = path if path.suffix == ".zst" else path.with_name(path.name + ".zst")
    import zstandard

    try:
        if path.suffix != ".zst" and path.exists():
            return path.read_bytes()
        with packed.open("rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw) as stream:
            return stream.read()
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; name the folder that holds the corpora with --data FOLDER.") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
    except zstandard.ZstdError as error:
        raise DataError(f"{packed} is damaged: {error}; fetch it again.") from error


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Records of a JSON-lines file.

    Raises:
        DataError: a line is no JSON object.
    """
    for number, line in enumerate(read_bytes(path).split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number}: not JSON ({error}).") from error
        if not isinstance(record, dict):
            raise DataError(f"{path}, line {number}: expected an object, got {type(record).__name__}.")
        yield record


def read_tar_texts(path: Path) -> Iterator[tuple[str, str]]:
    """(name, text) of each `.txt` in a tar archive, in the archive's order."""
    with tarfile.open(fileobj=io.BytesIO(read_bytes(path))) as archive:
        for member in archive:
            stream = archive.extractfile(member) if member.isfile() and member.name.endswith(".txt") else None
            if stream is not None:
                yield Path(member.name).name, stream.read().decode("utf-8")
