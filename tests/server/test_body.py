from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from understudy.server.body import MAX_BODY_BYTES, parse_json
from understudy.server.problem import Problem

CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    ("data", "key"),
    [
        (b'{"max_tokens": 2, "max_tokens": 3}', "max_tokens"),
        (b'{"messages": [{"role": "user", "content": "Hi", "role": "system"}]}', "role"),
        (b'{"\\udfff": 1, "\\udfff": 1}', r"\\udfff"),
    ],
    ids=["field", "field of a message", "half a pair"],
)
def test_a_key_given_twice(data: bytes, key: str) -> None:
    with pytest.raises(Problem, match=f"'{key}' is given twice") as refused:
        parse_json(data)
    assert refused.value.status == 400


def test_the_same_key_in_two_objects() -> None:
    assert parse_json(b'{"a": {"a": 1}, "b": [{"a": 1}, {"a": 1}]}')["a"] == {"a": 1}


@pytest.mark.parametrize(("num_bytes", "status"), [(MAX_BODY_BYTES - 200, 200), (MAX_BODY_BYTES, 413)])
async def test_a_chunked_body(url: str, body: Callable[..., dict[str, Any]], num_bytes: int, status: int) -> None:
    """Without a Content-Length the limit holds all the same."""
    head = httpx.Request("POST", url, json=body(max_tokens=1)).content[:-1] + b', "user": "'

    async def parts() -> AsyncIterator[bytes]:
        yield head
        for _ in range(num_bytes >> 16):
            yield b"x" * (1 << 16)
        yield b"x" * (num_bytes & 0xFFFF)
        yield b'"}'

    async with httpx.AsyncClient(timeout=30) as client:
        response = await client.post(url + CHAT, content=parts(), headers={"content-type": "application/json"})
    assert response.status_code == status


async def test_fields_of_other_clients(client: httpx.AsyncClient, body: Callable[..., dict[str, Any]]) -> None:
    response = await client.post(CHAT, json=body(models=["harrow", "other"], max_tokens=1))
    assert response.status_code == 200
