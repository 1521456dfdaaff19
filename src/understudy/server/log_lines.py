"""The log: lines for people, or one JSON object a line for programs. Nothing of what users say is in it."""

import json
import logging
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Literal, TypeAlias

__all__ = ["JsonLines", "set_up_log"]

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


@contextmanager
def set_up_log(kind: Literal["text", "json"]) -> Iterator[None]:
    """Write what the package, uvicorn and asyncio have to say to standard error, from INFO up, until the end."""
    handler = logging.StreamHandler(sys.stderr)
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


def _without_objects(record: logging.LogRecord) -> bool:
    """In further lines, asyncio describes what it was about: errors with their texts."""
    if record.name == "asyncio":
        record.msg, record.args = record.getMessage().partition("\n")[0], ()
    return True
