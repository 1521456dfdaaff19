"""Records between two processes over a pair of pipes: JSON, and bytes beside it."""

import contextlib
import json
import struct
import threading
from typing import Any, BinaryIO

__all__ = ["Channel"]

_HEAD = struct.Struct("<IQ")  # bytes of the JSON and of what follows it
_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


class Channel:
    """One end; several threads may send, one receives."""

    def __init__(self, reading: BinaryIO, writing: BinaryIO) -> None:
        """Use two buffered files, which belong to it from now on."""
        self._reading, self._writing = reading, writing
        self._is_sending = threading.Lock()

    def send(self, record: Any, blob: bytes | memoryview = b"") -> None:
        """Send a record; waits where the other side does not take it.

        Args:
            record: of JSON's types.
            blob: bytes that belong to it.

        Raises:
            OSError: the other side is gone.
            ValueError: this end is closed.
        """
        text = _encode(record).encode()
        with self._is_sending:
            self._writing.write(_HEAD.pack(len(text), len(blob)) + text)
            if blob:
                self._writing.write(blob)
            self._writing.flush()

    def receive(self) -> tuple[Any, bytes]:
        """The next record and its bytes.

        Raises:
            EOFError: the other side is gone.
        """
        text_bytes, blob_bytes = _HEAD.unpack(self._read(_HEAD.size))
        record = json.loads(self._read(text_bytes))
        return record, self._read(blob_bytes) if blob_bytes else b""

    def close(self) -> None:
        """End the conversation: the other side's next `receive` raises."""
        with contextlib.suppress(OSError), self._is_sending:
            self._writing.close()

    def _read(self, num_bytes: int) -> bytes:
        data = b""
        with contextlib.suppress(OSError, ValueError):
            data = self._reading.read(num_bytes)
        if len(data) < num_bytes:
            self._reading.close()
            raise EOFError("The other process is gone.")
        return data
