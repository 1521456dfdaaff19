"""Finished tensors beside the output, so that a stopped quantization goes on where it was.

`OUTPUT.spool` holds packed tensors end to end; `OUTPUT.spool.jsonl` has a line for the job and a line for each finished
tensor with its place and hash. A tensor counts once its line is whole and its bytes have the hash.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from understudy.errors import ModelFileError
from understudy.model.mapped_file import drop_pages, map_file

__all__ = ["Spool"]

_U8 = npt.NDArray[np.uint8]
_READ_BYTES = 64 << 20


class Spool:
    """An append-only store of tensors for one job; a job of another identity starts afresh."""

    def __init__(self, output: Path, identity: str) -> None:
        """Open, and keep what an earlier run of the same job finished.

        Raises:
            ModelFileError: the folder cannot be written.
        """
        self._data = output.with_name(f"{output.name}.spool")
        self._index = output.with_name(f"{output.name}.spool.jsonl")
        self._identity = identity
        self._places: dict[str, tuple[int, int]] = {}
        try:
            size = self._recover()
            self._file = self._data.open("r+b" if size else "wb")
            self._file.truncate(size)
            self._file.seek(size)
            self._lines = self._index.open("a", encoding="utf-8")
        except OSError as error:
            raise self._refused(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files; they stay."""
        self._file.close()
        self._lines.close()

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def put(self, name: str, parts: Iterable[_U8]) -> None:
        """Store a tensor that comes in parts.

        Raises:
            ModelFileError: the disk refuses; what was finished before is kept.
        """
        start = self._file.tell()
        digest = hashlib.sha256()
        try:
            for part in parts:
                self._file.write(part.data)
                digest.update(part.data)
            self._file.flush()
            os.fsync(self._file.fileno())
            size = self._file.tell() - start
            self._write_line({"name": name, "start": start, "size": size, "sha256": digest.hexdigest()})
        except OSError as error:
            raise self._refused(error) from error
        self._places[name] = (start, size)

    def get(self, name: str) -> _U8:
        """A finished tensor's bytes, memory-mapped."""
        start, size = self._places[name]
        return map_file(self._data)[start : start + size]

    def remove(self) -> None:
        """Delete the files, once the output is there."""
        self.close()
        self._data.unlink(missing_ok=True)
        self._index.unlink(missing_ok=True)

    def _write_line(self, record: dict[str, Any]) -> None:
        self._lines.write(json.dumps(record) + "\n")
        self._lines.flush()
        os.fsync(self._lines.fileno())

    def _recover(self) -> int:
        """Fill `_places` with the whole tensors of an earlier run; leaves an index of just these."""
        records = self._read_index()
        size = 0
        data = map_file(self._data) if records and self._data.stat().st_size else np.empty(0, np.uint8)
        for record in records:
            start, count = record["start"], record["size"]
            if start != size or start + count > data.size or _sha256(data[start : start + count]) != record["sha256"]:
                break
            self._places[record["name"]] = (start, count)
            size += count
        kept = [r for r in records if r["name"] in self._places]
        part = self._index.with_name(self._index.name + ".part")
        lines = [{"job": self._identity}, *kept]
        part.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        part.replace(self._index)
        return size

    def _read_index(self) -> list[dict[str, Any]]:
        """Whole lines of the index of this job."""
        if not self._index.is_file() or not self._data.is_file():
            return []
        records: list[dict[str, Any]] = []
        for number, line in enumerate(self._index.read_text(encoding="utf-8").split("\n")[:-1]):
            try:
                record = json.loads(line)
            except ValueError:
                break  # the line that a kill cut off, and what a later run wrote behind it
            if number == 0 and record.get("job") != self._identity:
                return []
            if number and not _is_record(record):
                break
            if number:
                records.append(record)
        return records

    def _refused(self, error: OSError) -> ModelFileError:
        return ModelFileError(
            f"{self._data} cannot be written: {error}; make room or choose another folder, then run the same again: "
            "finished tensors are kept."
        )


def _is_record(record: Any) -> bool:
    sizes = isinstance(record, dict) and all(type(record.get(k)) is int and record[k] >= 0 for k in ("start", "size"))
    return sizes and all(isinstance(record.get(k), str) for k in ("name", "sha256"))


def _sha256(data: _U8) -> str:
    digest = hashlib.sha256()
    for start in range(0, data.size, _READ_BYTES):
        part = data[start : start + _READ_BYTES]
        digest.update(part.data)
        drop_pages(part)
    return digest.hexdigest()
