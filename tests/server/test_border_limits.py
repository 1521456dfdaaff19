"""Keys with limits, seen from outside."""

import asyncio
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from understudy.server import KeyRing, ServerOptions, create_app, write_new_key
from understudy.server.log_lines import JsonLines

if TYPE_CHECKING:
    from conftest import Stage, Until

    Body = Callable[..., dict[str, Any]]

CHAT = "/v1/chat/completions"


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, str]:
    file = tmp_path / "keys.toml"
    return {
        "file": str(file),
        "free": write_new_key(file, "free"),
        "slow": write_new_key(file, "slow", requests_per_minute=2),
        "single": write_new_key(file, "single", max_concurrent=1),
    }


@pytest.fixture
def client(stage: "Stage", keys: dict[str, str]) -> httpx.AsyncClient:
    app = create_app(stage.served, api_key="own", keys=KeyRing.read(Path(keys["file"])))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def test_every_key_opens(client: httpx.AsyncClient, keys: dict[str, str]) -> None:
    for key in (keys["free"], keys["slow"], keys["single"], "own"):
        assert (await client.get("/v1/models", headers=bearer(key))).status_code == 200
    assert (await client.get("/v1/models", headers=bearer("other"))).status_code == 401


async def test_the_rate_is_told_as_openai_does(client: httpx.AsyncClient, keys: dict[str, str]) -> None:
    answers = [await client.get("/v1/models", headers=bearer(keys["slow"])) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    error = answers[2].json()["error"]
    assert (error["type"], error["code"], error["param"]) == ("rate_limit_error", "rate_limit_exceeded", None)
    assert 1 <= int(answers[2].headers["retry-after"]) <= 30
    assert (await client.get("/v1/models", headers=bearer(keys["free"]))).status_code == 200
    assert (await client.get("/v1/health/ready", headers=bearer(keys["slow"]))).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_one_answer_at_a_time(
    client: httpx.AsyncClient, stage: "Stage", keys: dict[str, str], body: "Body", until: "Until", stream: bool
) -> None:
    stage.gate.clear()
    headers = bearer(keys["single"])
    first = asyncio.create_task(client.post(CHAT, json=body(stream=stream), headers=headers))
    await until(lambda: stage.engine.stats().num_running == 1)
    assert (await client.post(CHAT, json=body(), headers=headers)).status_code == 429
    assert (await client.get("/v1/models", headers=headers)).status_code == 200
    stage.gate.set()
    assert (await first).status_code == 200
    assert (await client.post(CHAT, json=body(), headers=headers)).status_code == 200
    assert (await client.post(CHAT, json={}, headers=headers)).status_code == 400
    assert (await client.post(CHAT, json=body(), headers=headers)).status_code == 200


async def test_the_log_tells_who_and_how_long_but_no_words(
    client: httpx.AsyncClient, keys: dict[str, str], body: "Body", caplog: pytest.LogCaptureFixture
) -> None:
    said = body(messages=[{"role": "user", "content": "Geheimnis"}])
    headers = {**bearer(keys["free"]), "x-request-id": "from-nginx.1"}
    with caplog.at_level(logging.INFO):
        answer = await client.post(CHAT, json=said, headers=headers)
        await client.get("/v1/models/Geheimnis%20x?Geheimnis", headers={**headers, "x-request-id": "bad id"})
    assert answer.headers["x-request-id"] == "from-nginx.1"
    lines = [json.loads(JsonLines().format(record)) for record in caplog.records if "border" in record.name]
    assert [(line["route"], line["status"], line["key"]) for line in lines] == [
        (CHAT, 200, "free"),
        ("/v1/models/{name:path}", 404, "free"),
    ]
    assert lines[0]["request_id"] == "from-nginx.1"
    assert lines[1]["request_id"].startswith("req_")
    written = [JsonLines().format(record) for record in caplog.records if record.name.startswith("understudy")]
    assert not any("Geheimnis" in line or keys["free"] in line or "\n" in line for line in written)


async def test_pages_elsewhere_may_ask_where_they_are_named(stage: "Stage") -> None:
    origin = "https://game.example"
    asks = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization",
    }
    for origins, is_allowed in (((), False), ((origin,), True), (("https://other.example",), False)):
        app = create_app(stage.served, api_key="own", options=ServerOptions(cors_origins=origins))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            before = await client.options("/v1/models", headers=asks)
            refused = await client.get("/v1/models", headers={"origin": origin})
        assert (before.headers.get("access-control-allow-origin") == origin) is is_allowed
        assert (refused.headers.get("access-control-allow-origin") == origin) is is_allowed
        assert refused.status_code == 401
