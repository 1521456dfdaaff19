from typing import TYPE_CHECKING

import httpx
import pytest

from understudy import __version__
from understudy.server import ServedModel, create_app

if TYPE_CHECKING:
    from conftest import Stage

PROBES = ["/health", "/metrics", "/v1/health/live", "/v1/health/ready", "/v1/metrics", "/v1/version"]
OTHERS = ["/v1/metadata", "/v1/license", "/v1/manifest", "/props", "/slots", "/v1/models", "/openapi.json"]


async def test_only_probes_need_no_key(stage: "Stage") -> None:
    app = create_app(stage.served, api_key="secret")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        assert [(await client.get(path)).status_code for path in PROBES] == [200] * len(PROBES)
        assert [(await client.get(path)).status_code for path in OTHERS] == [401] * len(OTHERS)
        for path in ("/v1/completions", "/tokenize", "/detokenize"):
            assert (await client.post(path, json={})).status_code == 401


async def test_what_is_served(tiny: httpx.AsyncClient) -> None:
    assert (await tiny.get("/v1/version")).json() == {"release": __version__, "api": "1.0.0"}
    assert (await tiny.get("/v1/metadata")).json()["modelInfo"] == [{"modelUrl": "harrow", "shortName": "harrow"}]
    assert "Apache" in (await tiny.get("/v1/license")).json()["name"]
    (shape,) = (await tiny.get("/v1/manifest")).json()["models"]
    assert (shape["name"], shape["context_tokens"]) == ("harrow", 4096)
    assert shape["parameters"] > 0


async def test_llamas_routes(tiny: httpx.AsyncClient) -> None:
    assert (await tiny.get("/health")).json() == {"status": "ok"}
    props, slots = (await tiny.get("/props")).json(), (await tiny.get("/slots")).json()
    assert props["default_generation_settings"]["n_ctx"] == 4096
    assert len(slots) == props["total_slots"]
    assert not any(slot["is_processing"] for slot in slots)


@pytest.mark.parametrize("path", ["/health", "/v1/health/ready"])
async def test_not_ready_while_loading(stage: "Stage", path: str) -> None:
    later = ServedModel("later", stem="later", created=0, load=lambda: stage.served.model)
    app = create_app(stage.served, later, api_key=None)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        assert (await client.get(path)).status_code == 503
        assert (await client.get("/v1/health/live")).status_code == 200
        assert (await client.get("/metrics")).status_code == 200
        body = {"model": "later", "messages": [{"role": "user", "content": "Hi"}]}
        refused = await client.post("/v1/chat/completions", json=body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_loading")
        assert int(refused.headers["retry-after"]) > 0
        assert (await client.post("/v1/chat/completions", json={**body, "model": "harrow"})).status_code == 200
        later.load()
        assert (await client.get(path)).status_code == 200
        assert (await client.post("/v1/chat/completions", json=body)).status_code == 200
        assert [card["id"] for card in (await client.get("/v1/models")).json()["data"]] == ["harrow", "later"]
