"""`/v1/memory`: a client's own players, and nobody else's."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from understudy.server import KeyRing, create_app
from understudy.server.keys import ApiKey
from understudy.server.npc_memory import player_key

if TYPE_CHECKING:
    from conftest import Stage


@pytest.fixture
async def two(stage: "Stage") -> AsyncIterator[tuple[httpx.AsyncClient, httpx.AsyncClient]]:
    """Clients of two keys whose names differ in case alone."""
    app = create_app(stage.served, keys=KeyRing([ApiKey.of("one", name="game"), ApiKey.of("two", name="Game")]))
    transport = httpx.ASGITransport(app)
    async with (
        httpx.AsyncClient(transport=transport, base_url="http://test", headers={"authorization": "Bearer one"}) as one,
        httpx.AsyncClient(transport=transport, base_url="http://test", headers={"authorization": "Bearer two"}) as two,
    ):
        yield one, two


async def told(client: httpx.AsyncClient, where: str = "/v1/memory") -> list[dict[str, Any]]:
    response = await client.get(where)
    assert response.status_code == 200
    found: list[dict[str, Any]] = response.json()["data"]
    return found


async def test_a_character_remembers_beyond_its_conversation(client: httpx.AsyncClient, stage: "Stage") -> None:
    made = (await client.post("/v1/npcs", json={"character": "hettie", "player": "Mara", "memory": True})).json()
    assert made["memory"] == {"player": "Mara", "character": "hettie"}
    where = f"/v1/npcs/{made['id']}"
    await client.post(f"{where}/say", json={"line": "I live in Oakham.", "remember": False})
    assert await told(client) == []
    assert (await client.get(where)).json()["history"] == []
    await client.post(f"{where}/say", json={"line": "I owe you three coppers."})
    (fact,) = await told(client, "/v1/memory?player=Mara&character=hettie")
    assert {"player": "mara", "character": "hettie", "kind": "debt", "is_quote": True}.items() <= fact.items()
    later = (await client.post("/v1/npcs", json={"character": "hettie", "player": "Mara", "memory": True})).json()
    await client.post(f"/v1/npcs/{later['id']}/say", json={"line": "Good evening!"})
    assert 'Mara said: "I owe you three coppers' in stage.prompts[-1]
    without = (await client.post("/v1/npcs", json={"character": "hettie", "player": "Mara"})).json()
    assert without["memory"] is None
    await client.post(f"/v1/npcs/{without['id']}/say", json={"line": "I hate snakes."})
    assert "coppers" not in stage.prompts[-1]
    assert len(await told(client)) == 1


async def test_noted_edited_exported_and_forgotten(client: httpx.AsyncClient) -> None:
    note = {"player": "Mara", "character": "hettie", "text": "Mara paid for a room.", "kind": "deed"}
    made = await client.post("/v1/memory", json=note)
    assert (made.status_code, made.json()["is_quote"]) == (201, False)
    assert (await client.post("/v1/memory", json=note)).status_code == 200  # known already
    where = f"/v1/memory/{made.json()['id']}"
    assert (await client.post(where, json={"text": "Mara paid twice."})).json()["text"] == "Mara paid twice."
    export = await client.get("/v1/memory/export?player=Mara")
    assert "attachment" in export.headers["content-disposition"]
    assert [fact["text"] for fact in export.json()["data"]] == ["Mara paid twice."]
    assert (await client.delete(where)).json()["deleted"] is True
    await client.post("/v1/memory", json=note)
    await client.post("/v1/memory", json={**note, "character": "gunna"})
    assert (await client.delete("/v1/memory?player=Mara&character=gunna")).json()["deleted"] == 1
    assert (await client.delete("/v1/memory?player=Mara")).json()["deleted"] == 1
    assert await told(client) == []


async def test_two_keys_have_two_players(two: tuple[httpx.AsyncClient, httpx.AsyncClient]) -> None:
    one, other = two
    note = {"player": "Mara", "character": "hettie", "text": "Mara paid."}
    fact = (await one.post("/v1/memory", json=note)).json()
    assert (await other.post("/v1/memory", json={**note, "text": "Mara fled."})).status_code == 201
    assert [f["text"] for f in await told(one)] == ["Mara paid."]
    assert [(f["player"], f["text"]) for f in await told(other)] == [("mara", "Mara fled.")]
    where = f"/v1/memory/{fact['id']}"
    for response in (await other.delete(where), await other.post(where, json={"text": "Mine."})):
        assert (response.status_code, response.json()["error"]["code"]) == (404, "fact_not_found")
    assert (await other.delete("/v1/memory?player=Mara")).json()["deleted"] == 1
    assert len(await told(one)) == 1
    foreign = player_key("game", "Mara")  # somebody's name is no way in
    assert (await other.delete("/v1/memory", params={"player": foreign})).json()["deleted"] == 0


@pytest.mark.parametrize(
    ("method", "where", "body", "status", "param"),
    [
        ("GET", "/v1/memory?colour=red", None, 400, None),
        ("DELETE", "/v1/memory", None, 400, "player"),
        ("DELETE", "/v1/memory/..%2Fx", None, 404, None),
        ("DELETE", "/v1/memory/99999999999999999999", None, 404, None),
        ("POST", "/v1/memory/7", {"text": "x"}, 404, None),
        ("POST", "/v1/memory", {"player": "a", "character": "b", "text": "x" * 400}, 400, "text"),
        ("POST", "/v1/memory", {"player": "a", "character": "b", "text": "x", "kind": "colour"}, 400, "text"),
        ("POST", "/v1/memory", {"player": "a", "character": "b"}, 400, "text"),
    ],
)
async def test_slips(
    client: httpx.AsyncClient, method: str, where: str, body: Any, status: int, param: str | None
) -> None:
    response = await client.request(method, where, json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (status, param), response.text
