"""What `/openapi.json` says of the answers is so."""

from collections.abc import Callable
from typing import Any

import httpx
from jsonschema import Draft202012Validator

Body = Callable[..., dict[str, Any]]


def check(document: dict[str, Any], path: str, response: httpx.Response) -> None:
    """The answer is one that the document tells of."""
    route = document["paths"][path][response.request.method.lower()]
    told = route["responses"].get(str(response.status_code), route["responses"]["default"])
    kind = response.headers["content-type"].partition(";")[0]
    assert kind in told["content"], path
    if kind == "application/json":
        schema = {**told["content"][kind]["schema"], "components": document["components"]}
        Draft202012Validator(schema).validate(response.json())


async def test_every_plain_look_is_as_told(tiny: httpx.AsyncClient) -> None:
    document = (await tiny.get("/openapi.json")).json()
    paths = [path for path, routes in document["paths"].items() if "get" in routes and "{" not in path]
    assert len(paths) > 10
    for path in paths:
        response = await tiny.get(path)
        assert response.status_code == 200
        check(document, path, response)


async def test_answers_and_refusals_are_as_told(tiny: httpx.AsyncClient, body: Body) -> None:
    document = (await tiny.get("/openapi.json")).json()
    posts = [path for path, routes in document["paths"].items() if "post" in routes]
    for path in posts:
        check(document, path, await tiny.post(path, json={"nonsense": []}))
        check(document, path, await tiny.post(path, content=b"{"))
    requests = {
        "/v1/chat/completions": body(max_tokens=2),
        "/v1/completions": {"model": "harrow", "prompt": "a", "stream": True, "max_tokens": 2},
        "/v1/embeddings": {"model": "harrow", "input": "a"},
        "/tokenize": {"prompt": "a"},
        "/detokenize": {"tokens": [5]},
    }
    for path, value in requests.items():
        response = await tiny.post(path, json=value)
        assert response.status_code == 200
        Draft202012Validator({**schema_of(document, path), "components": document["components"]}).validate(value)
        check(document, path, response)


async def test_a_fact_that_is_known_already_is_told_of(tiny: httpx.AsyncClient) -> None:
    document = (await tiny.get("/openapi.json")).json()
    fact = {"player": "Mara", "character": "hettie", "kind": "deed", "text": "Mara paid for a room."}
    for status in (201, 200):
        response = await tiny.post("/v1/memory", json=fact)
        assert response.status_code == status
        assert str(status) in document["paths"]["/v1/memory"]["post"]["responses"]
        check(document, "/v1/memory", response)


def schema_of(document: dict[str, Any], path: str) -> dict[str, Any]:
    schema: dict[str, Any] = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    return schema


async def test_only_probes_are_told_to_be_open(tiny: httpx.AsyncClient) -> None:
    paths = (await tiny.get("/openapi.json")).json()["paths"]
    is_open = {path for path, routes in paths.items() for route in routes.values() if "security" not in route}
    assert is_open == {"/health", "/metrics", "/v1/health/live", "/v1/health/ready", "/v1/metrics", "/v1/version"}
