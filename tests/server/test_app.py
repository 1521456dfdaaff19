from typing import TYPE_CHECKING, Any

import httpx
import pytest

from understudy.server import create_app

if TYPE_CHECKING:
    from conftest import Stage


async def test_models(client: httpx.AsyncClient) -> None:
    response = await client.get("/v1/models")
    (card,) = response.json()["data"]
    assert response.json()["object"] == "list"
    assert card == {
        "id": "harrow",
        "object": "model",
        "created": card["created"],
        "owned_by": "understudy",
        "root": "harrow",
        "parent": None,
        "max_model_len": 4096,
    }


@pytest.mark.parametrize(
    "name", ["harrow", "tiny", "nvidia/nemotron-mini-4b-instruct", "nvidia%2Fnemotron-mini-4b-instruct"]
)
async def test_one_model(client: httpx.AsyncClient, name: str) -> None:
    response = await client.get(f"/v1/models/{name}")
    assert response.status_code == 200
    assert response.json()["id"] == name.replace("%2F", "/")
    assert response.json()["root"] == "harrow"


@pytest.mark.parametrize("path", ["/v1/health/live", "/v1/health/ready"])
async def test_health(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(path)
    assert response.status_code == 200
    assert response.json()["object"] == "health.response"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/modelz", 404, "unknown_url"),
        ("POST", "/chat/completions", 404, "unknown_url"),
        ("POST", "/v1/chat/completions/", 404, "unknown_url"),
        ("POST", "/v1/messages", 404, "unknown_url"),
        ("GET", "/v1/models/gpt-4", 404, "model_not_found"),
        ("GET", "/v1/models/", 404, "model_not_found"),
        ("GET", "/v1/chat/completions", 405, "method_not_supported"),
        ("DELETE", "/v1/models", 405, "method_not_supported"),
        ("POST", "/v1/health/live", 405, "method_not_supported"),
    ],
)
async def test_unknown_paths_and_methods(
    client: httpx.AsyncClient, method: str, path: str, status: int, code: str
) -> None:
    response = await client.request(method, path)
    error: dict[str, Any] = response.json()["error"]
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    assert (error["type"], error["code"]) == ("invalid_request_error", code)
    assert error.keys() == {"message", "type", "param", "code"}
    assert status != 405 or response.headers["allow"]


async def test_the_document_describes_the_request(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    content = document["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]
    name = content["application/json"]["schema"]["$ref"].rpartition("/")[2]
    schema = document["components"]["schemas"][name]
    assert {"model", "messages"} == set(schema["required"])
    assert schema["properties"]["messages"]["items"]["$ref"].rpartition("/")[2] in document["components"]["schemas"]


async def test_a_bug_is_answered_too(
    stage: "Stage", monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("understudy.server.served.ServedModel.to_json", lambda self: 1 / 0)
    app = create_app(stage.served, api_key=None)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        response = await client.get("/v1/models")
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "server_error"
    assert response.headers["x-request-id"] in caplog.text
    assert "ZeroDivisionError" in caplog.text
