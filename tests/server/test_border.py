from typing import TYPE_CHECKING

import httpx
import pytest

from understudy.errors import ServeError
from understudy.server import create_app

if TYPE_CHECKING:
    from conftest import Stage

KEY = "geheim-ü"


@pytest.fixture
async def client(stage: "Stage") -> httpx.AsyncClient:
    transport = httpx.ASGITransport(create_app(stage.served, api_key=KEY))
    return httpx.AsyncClient(transport=transport, base_url="http://test")


@pytest.mark.parametrize(
    "path", ["/v1/models", "/v1/models/harrow", "/v1/nothing", "/openapi.json", "/v1/health/live/x"]
)
@pytest.mark.parametrize("header", [None, "Bearer", "Bearer wrong", "Basic geheim", "geheim", "Bearer geheim-u"])
async def test_no_key_no_answer(client: httpx.AsyncClient, path: str, header: str | None) -> None:
    response = await client.get(path, headers={"authorization": header} if header else {})
    error = response.json()["error"]
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.headers["x-request-id"].startswith("req_")
    assert (error["type"], error["code"], error["param"]) == ("authentication_error", "invalid_api_key", None)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
async def test_the_key_opens(client: httpx.AsyncClient, scheme: str) -> None:
    response = await client.get("/v1/models", headers={"authorization": f"{scheme} {KEY}".encode()})
    assert response.status_code == 200


async def test_probes_need_no_key(client: httpx.AsyncClient) -> None:
    for path in ("/v1/health/live", "/v1/health/ready"):
        assert (await client.get(path)).status_code == 200


async def test_every_answer_has_an_id_of_its_own(client: httpx.AsyncClient) -> None:
    ids = {(await client.get(path)).headers["x-request-id"] for path in ("/v1/health/live", "/v1/models", "/x")}
    assert len(ids) == 3


@pytest.mark.parametrize("key", ["", " ", " secret", "secret\n", "a\x00b", "\udcff"])
def test_a_key_that_nobody_can_send(stage: "Stage", key: str) -> None:
    with pytest.raises(ServeError, match="API key must be"):
        create_app(stage.served, api_key=key)
