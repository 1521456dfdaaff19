"""With a real server: streams arrive as they are made, and who leaves costs nothing more."""

import asyncio
import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from conftest import Stage, Until

    Body = Callable[..., dict[str, Any]]

CHAT = "/v1/chat/completions"


async def test_words_arrive_while_the_model_still_works(url: str, stage: "Stage", body: "Body", until: "Until") -> None:
    stage.script, stage.endless = "tick ", True
    async with (
        httpx.AsyncClient(timeout=10) as client,
        client.stream("POST", url + CHAT, json=body(stream=True)) as response,
    ):
        lines = response.aiter_lines()
        assert json.loads((await anext(lines)).removeprefix("data: "))["choices"][0]["delta"]["role"] == "assistant"
        async for line in lines:
            if "content" in line:
                break
        assert stage.engine.stats().num_running == 1
    await until(lambda: stage.engine.stats().num_running == 0)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_ends_the_work(
    url: str, stage: "Stage", body: "Body", until: "Until", stream: bool
) -> None:
    stage.gate.clear()
    async with httpx.AsyncClient(timeout=10) as client:
        task = asyncio.create_task(client.post(url + CHAT, json=body(stream=stream, n=2)))
        await until(lambda: stage.engine.stats().num_running + stage.engine.stats().num_waiting == 2)
        task.cancel()
        await until(lambda: stage.engine.stats().num_running + stage.engine.stats().num_waiting == 0)
    stage.gate.set()


async def test_probes_answer_while_the_model_is_busy(url: str, stage: "Stage", body: "Body", until: "Until") -> None:
    stage.gate.clear()
    async with httpx.AsyncClient(timeout=10) as client:
        task = asyncio.create_task(client.post(url + CHAT, json=body()))
        await until(lambda: stage.engine.stats().num_running == 1)
        began = time.monotonic()
        assert (await client.get(url + "/v1/health/ready")).status_code == 200
        assert time.monotonic() - began < 1
        stage.gate.set()
        assert (await task).status_code == 200


async def test_several_clients_at_once(url: str, stage: "Stage", body: "Body") -> None:
    async with httpx.AsyncClient(timeout=20) as client:
        answers = await asyncio.gather(*(client.post(url + CHAT, json=body(stream=n % 2 == 0)) for n in range(12)))
    assert [answer.status_code for answer in answers] == [200] * 12


async def test_a_body_too_large_is_answered(url: str, body: "Body") -> None:
    async with httpx.AsyncClient(timeout=20) as client:
        response = await client.post(url + CHAT, json=body(x="y" * (5 << 20)))
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "request_too_large"
