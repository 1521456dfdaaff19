"""The log: lines for people, or one JSON object a line for programs. Nothing of what users say is in it."""

import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

__all__ = ["JsonLines", "set_up_log"]


class JsonLines(logging.Formatter):
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
    """Write what the package and uvicorn have to say to standard error, from the level INFO up, until the end."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonLines() if kind == "json" else logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    )
    loggers = [logging.getLogger(name) for name in ("understudy", "uvicorn")]
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
