"""The log: lines for people, or one JSON object a line for programs. Nothing of what users say is in it."""

import json
import logging
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Literal, TextIO, TypeAlias

__all__ = ["JsonLines", "set_up_log"]

_DELAY_S = 0.05
_MAX_LINES = 10_000  # that wait: where nobody reads the log, the oldest are lost
_ExcInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class _Lines(logging.Formatter):
    """Leaves out what an error says: that may be a user's words, or a key."""

    def formatException(self, ei: _ExcInfo) -> str:  # noqa: N802 (logging's name)
        """The error's kind and place; its text only where the package logs at the level DEBUG."""
        kind, _, trace = ei
        if kind is None or logging.getLogger("understudy").isEnabledFor(logging.DEBUG):
            return super().formatException(ei)
        return "".join([*traceback.format_tb(trace), kind.__name__])


class JsonLines(_Lines):
    """One JSON object a line; a record's own `fields` are keys beside the others."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record; whatever is in it, it stays one line of ASCII."""
        fields = getattr(record, "fields", {})
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{when}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": "request" if record.msg == "request %s" else record.getMessage(),
            **fields,
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class _LateLines(logging.Handler):
    """Writes what the package tells of requests a little later, many lines at once, in a thread of its own.

    The threads that work then wait neither for the file or pipe nor for each other. Warnings, and what others tell, are
    written at once.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._lines: deque[str] = deque(maxlen=_MAX_LINES)
        self._is_writing = threading.RLock()  # the garbage collector may log while this thread writes
        self._has_lines, self._is_closed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._write_later, name="understudy-log", daemon=True)
        self._thread.start()

    def handle(self, record: logging.LogRecord) -> bool:
        """Take a record, without logging's lock: an append needs none."""
        if not self.filter(record):
            return False
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record's line until it is written."""
        try:
            self._lines.append(f"{self.format(record)}\n")
        except Exception:  # noqa: BLE001 (as logging's own handlers: who tells something shall not fail by that)
            self.handleError(record)
        if record.levelno > logging.INFO or not record.name.startswith("understudy."):
            self.flush()
        elif not self._has_lines.is_set():
            self._has_lines.set()

    def flush(self) -> None:
        """Write what waits. Where the disk is full, or nobody reads any more, it is lost."""
        with self._is_writing:
            text = "".join([self._lines.popleft() for _ in range(len(self._lines))])
            if not text:
                return
            try:
                self._stream.write(text)
                self._stream.flush()
            except (OSError, ValueError):
                return

    def close(self) -> None:
        """Write what waits, and end the thread."""
        self._is_closed.set()
        self._has_lines.set()
        self._thread.join(timeout=1)  # it may be stuck in a pipe that nobody reads
        if not self._thread.is_alive():
            self.flush()
        super().close()

    def _write_later(self) -> None:
        while not self._is_closed.is_set():
            self._has_lines.wait()
            self._is_closed.wait(_DELAY_S)
            self._has_lines.clear()
            self.flush()


@contextmanager
def set_up_log(kind: Literal["text", "json"]) -> Iterator[None]:
    """Write what the package, uvicorn and asyncio have to say to standard error, from INFO up, until the end."""
    handler = _LateLines(sys.stderr)
    handler.setFormatter(JsonLines() if kind == "json" else _Lines("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.addFilter(_without_objects)
    loggers = [logging.getLogger(name) for name in ("understudy", "uvicorn", "asyncio")]
    before = [(logger.handlers, logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
        handler.close()


def _without_objects(record: logging.LogRecord) -> bool:
    """In further lines, asyncio describes what it was about: errors with their texts."""
    if record.name == "asyncio":
        record.msg, record.args = record.getMessage().partition("\n")[0], ()
    return True
