"""JSON documents from outside: bounded in size and depth, and with nothing in them that JSON cannot hold."""

import json
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO

from understudy.errors import CardError

__all__ = ["dump_json", "open_file", "parse_json", "read_file", "read_json", "read_rest", "replacing"]

_MAX_DEPTH = 64


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes a path's place once it is written whole; where that fails, what was there stays."""
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".saving-", delete=False) as file:
            temporary = Path(file.name)
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        if temporary:
            temporary.unlink(missing_ok=True)
        raise


def read_json(path: Path, *, limit: int, source: str) -> Any:
    """Read a JSON file of at most `limit` bytes.

    Raises:
        CardError: it cannot be read, is longer, or is no JSON.
    """
    return parse_json(read_file(path, limit=limit, source=source), source)


def read_file(path: Path, *, limit: int, source: str) -> bytes:
    """Read a file of at most `limit` bytes.

    Raises:
        CardError: it cannot be read, or is longer.
    """
    with open_file(path, source) as file:
        return read_rest(file, limit=limit, source=source)


def read_rest(file: BinaryIO, *, limit: int, source: str) -> bytes:
    """Read on to the end of a file, which is at most `limit` bytes away.

    Raises:
        CardError: it is further away; found out before anything is read, where the file can tell.
    """
    size = os.fstat(file.fileno()).st_size
    content = file.read(limit + 1) if size - file.tell() <= limit else b""
    if size - file.tell() > 0 or len(content) > limit:
        raise CardError(
            f"{source} is larger than {round(limit / (1 << 20))} MiB. Take pictures and other data out of it."
        )
    return content


def parse_json(content: bytes, source: str) -> Any:
    """Parse JSON from outside.

    Raises:
        CardError: it is no UTF-8 or no JSON, is nested too deeply, or has a number that JSON cannot hold.
    """
    try:
        value = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise CardError(f"{source} is no UTF-8 text, no PNG and no .charx. Export the character again.") from error
    except RecursionError as error:
        raise CardError(f"{source} is no valid JSON: it is nested too deeply. Export it again.") from error
    except ValueError as error:
        raise CardError(f"{source} is no valid JSON: {error}. Mend it, or export it again.") from error
    level = [value]
    for _ in range(_MAX_DEPTH):
        inner: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                inner += one.values()
            elif isinstance(one, list):
                inner += one
            elif isinstance(one, float) and not math.isfinite(one):
                raise CardError(f"{source} is no valid JSON: a number in it is infinite or none. Mend it.")
        if not inner:
            return value
        level = inner
    raise CardError(f"{source} is no valid card: it is nested more than {_MAX_DEPTH} levels deep. Export it again.")


def dump_json(document: Any, *, indent: int | None = None) -> bytes:
    """UTF-8 JSON; half surrogates, which UTF-8 cannot hold, are escaped."""
    try:
        return json.dumps(document, ensure_ascii=False, indent=indent).encode()
    except UnicodeEncodeError:
        return json.dumps(document, indent=indent).encode()


def open_file(path: Path, source: str) -> BinaryIO:
    """Open a file to read.

    Raises:
        CardError: it is not there, or may not be read.
    """
    try:
        return path.open("rb")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise CardError(f"{source} cannot be read: {why}.") from error
