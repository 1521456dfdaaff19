"""A request's body: read within bounds, and parsed as JSON without the extras of Python's parser."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from fastapi import Request

from understudy.server.problem import Problem

__all__ = ["MAX_BODY_BYTES", "parse_json", "read_body", "read_json"]

MAX_BODY_BYTES = 4 << 20
# Read on and thrown away, so that a client that sends all before it listens still hears why it was refused.
_MAX_DISCARDED_BYTES = 64 << 20
_MAX_DEPTH = 64
_SMALL_BODY_BYTES = 16 << 10
_T = TypeVar("_T")


async def read_json(request: Request) -> dict[str, Any]:
    """The body's JSON object.

    Raises:
        Problem: another content type, too large, no JSON, or no object.
    """
    return await read_body(request, lambda value: value)


async def read_body(request: Request, parse: Callable[[dict[str, Any]], _T]) -> _T:
    """What the body's JSON object says.

    Args:
        request: the request.
        parse: makes it of the object; perhaps in another thread.

    Raises:
        Problem: another content type, too large, no JSON, or no object; and what `parse` raises.
    """
    content_type = request.headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise Problem(
            415,
            f"The body must be JSON with the header 'Content-Type: application/json', not {content_type[:100]!r}.",
            code="unsupported_media_type",
        )
    data = await _read(request)
    if len(data) <= _SMALL_BODY_BYTES:  # sooner done than handed to another thread
        return parse(parse_json(data))
    # A body of megabytes takes a while to parse; health probes must not wait for it.
    return await asyncio.to_thread(lambda: parse(parse_json(data)))


async def _read(request: Request) -> bytes:
    announced = request.headers.get("content-length", "0")
    is_asking = "100-continue" in request.headers.get("expect", "").lower()
    if announced.isdecimal() and int(announced) > (MAX_BODY_BYTES if is_asking else _MAX_DISCARDED_BYTES):
        raise _too_large(headers={"connection": "close"})
    chunks: list[bytes] = []
    num_bytes = 0
    async for chunk in request.stream():
        num_bytes += len(chunk)
        if num_bytes <= MAX_BODY_BYTES:
            chunks.append(chunk)
        elif num_bytes > _MAX_DISCARDED_BYTES:
            break
        else:
            chunks.clear()
    if num_bytes > MAX_BODY_BYTES:
        raise _too_large()
    return b"".join(chunks)


def _too_large(headers: Mapping[str, str] | None = None) -> Problem:
    return Problem(
        413,
        f"The body is larger than {MAX_BODY_BYTES >> 20} MiB; send fewer messages or documents.",
        code="request_too_large",
        headers=headers,
    )


def parse_json(data: bytes) -> dict[str, Any]:
    """Parse an object; NaN, infinity, keys given twice, half surrogate pairs and endless nesting are refused.

    Raises:
        Problem: the bytes are none.
    """
    try:
        value = json.loads(
            data.decode("utf-8-sig"), object_pairs_hook=_object, parse_constant=_refuse, parse_float=_finite
        )
    except UnicodeDecodeError as error:
        raise Problem(400, f"The body is no UTF-8 text: {error.reason} at byte {error.start}.") from error
    except RecursionError as error:
        raise Problem(400, f"The body's JSON is nested deeper than {_MAX_DEPTH} levels.") from error
    except ValueError as error:
        raise Problem(400, f"The body is no valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise Problem(400, 'The body must be a JSON object: {"model": ..., "messages": [...]}.')
    for text in _texts(value):
        if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
            raise Problem(400, "The body has half of a UTF-16 surrogate pair; send whole characters.")
    return value


def _texts(value: Any) -> Iterator[str]:
    """All strings in a JSON value, level by level."""
    level = [value]
    for _ in range(_MAX_DEPTH):
        below: list[Any] = []
        for item in level:
            if isinstance(item, str):
                yield item
            elif isinstance(item, dict):
                yield from item
                below += item.values()
            elif isinstance(item, list):
                below += item
        if not below:
            return
        level = below
    raise Problem(400, f"The body's JSON is nested deeper than {_MAX_DEPTH} levels.")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Python's parser keeps the last of two values under one key; which of them was meant, nobody can say."""
    value = dict(pairs)
    if len(value) < len(pairs):
        ((doubled, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {doubled[:40]!r} is given twice in one object")
    return value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text[:40]} is too large a number")
    return value
