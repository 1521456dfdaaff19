"""Files as memory-mapped bytes, and JSON that is checked before it is trusted."""

import json
import mmap
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.errors import ModelFileError

__all__ = ["drop_pages", "file_marks", "map_file", "parse_json_object", "read_json_object"]

_MAX_JSON_BYTES = 256 << 20


def map_file(path: Path) -> npt.NDArray[np.uint8]:
    """Map a file read-only; its pages come into memory when they are touched.

    Returns:
        (bytes,) uint8, not writable; the mapping lives as long as any view of it.

    Raises:
        ModelFileError: the file is missing, empty or cannot be read.
    """
    try:
        with path.open("rb") as file:
            if file.seek(0, 2) == 0:
                raise ModelFileError(f"{path} is empty; the download was cut off, get the file again.")
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError as error:
        raise ModelFileError(f"There is no file {path}; check the path.") from error
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path} cannot be read: {error}; check the path and its permissions.") from error
    return np.frombuffer(mapped, np.uint8)


def drop_pages(view: npt.NDArray[np.uint8]) -> None:
    """Tell the system that a stretch of a mapped file is not needed for now; reading it again brings it back.

    Nothing happens to arrays that are no view of `map_file`, or on systems without such advice.
    """
    whole = view
    while isinstance(whole.base, np.ndarray):
        whole = whole.base
    base: object = whole.base
    if isinstance(base, memoryview):
        base = base.obj
    if isinstance(base, mmap.mmap) and hasattr(base, "madvise") and view.size:
        offset = view.ctypes.data - whole.ctypes.data
        start = -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE
        length = offset + view.nbytes - start
        if length > 0:
            base.madvise(mmap.MADV_DONTNEED, start, length)


def parse_json_object(data: bytes, source: str) -> dict[str, Any]:
    """Parse UTF-8 JSON that must be an object without doubled keys.

    Raises:
        ModelFileError: it is not.
    """
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique)
    except RecursionError as error:
        raise ModelFileError(f"{source} is nested too deeply to be a model's JSON; get the file again.") from error
    except ValueError as error:
        raise ModelFileError(f"{source} is not valid JSON ({error}); get the file again.") from error
    if not isinstance(value, dict):
        raise ModelFileError(f"{source} must hold a JSON object, got {type(value).__name__}; get the file again.")
    return value


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that must hold an object.

    Raises:
        ModelFileError: it is missing, larger than 256 MiB, or not such a file.
    """
    data = map_file(path)
    if data.size > _MAX_JSON_BYTES:
        raise ModelFileError(f"{path} has {data.size} bytes, too large for a model's JSON file; check the path.")
    return parse_json_object(data.tobytes(), str(path))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        seen: set[str] = set()
        doubled = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {doubled!r} is there twice")
    return out


def file_marks(*paths: Path | None) -> list[list[int]]:
    """What tells files, and those of folders, from others that took their place."""
    found = [path for path in paths if path is not None and path.exists()]
    files = [file for path in found for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    return [[stat.st_ino, stat.st_size, stat.st_mtime_ns] for stat in map(Path.stat, files)]
