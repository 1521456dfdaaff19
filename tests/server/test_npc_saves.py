"""Saving over HTTP: sizes told before, files, the server's folder; and what an upload may not do."""

import base64
import json
import zipfile
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest

from understudy.server import KeyRing, ServedModel, create_app
from understudy.server.keys import ApiKey
from understudy.server.npc_stores import NpcStores
from understudy.server.options import ServerOptions

LINE = {"line": "Hi there", "max_tokens": 6, "temperature": 1.0}
CARD = {"name": "Pell", "description": "A ferryman.", "first_mes": "Aye?"}


@pytest.fixture
async def keeping(tiny_served: ServedModel, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A server with a folder for sessions."""
    with NpcStores.open(ServerOptions(sessions=tmp_path / "saves")) as stores:
        transport = httpx.ASGITransport(create_app(tiny_served, stores=stores))
        async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=120) as client:
            yield client


async def begun(client: httpx.AsyncClient) -> str:
    """A character that has answered once."""
    made = await client.post("/v1/npcs", json={"card": CARD, "seed": 5})
    assert made.status_code == 201, made.text
    where = f"/v1/npcs/{made.json()['id']}"
    assert (await client.post(f"{where}/say", json=LINE)).status_code == 200
    return where


async def next_words(client: httpx.AsyncClient, where: str) -> str:
    answer = await client.post(f"{where}/say", json=LINE)
    text: str = answer.json()["text"]
    return text


async def gone_on(client: httpx.AsyncClient, **body: Any) -> str:
    loaded = await client.post("/v1/npcs/load", json=body)
    assert loaded.status_code == 201, loaded.text
    return f"/v1/npcs/{loaded.json()['id']}"


async def test_every_way_goes_on_with_the_same_words(keeping: httpx.AsyncClient, tiny_served: ServedModel) -> None:
    where = await begun(keeping)
    asked = ("false", "true&kv_share=null", "true", "true&kv_share=0.8")
    sizes = [(await keeping.get(f"{where}/save?with_kv={flags}")).json() for flags in asked]
    assert sizes[0]["kv_bytes"] == 0
    assert sizes[1]["total_bytes"] > sizes[0]["total_bytes"] > 0
    assert sizes[2]["kv_bytes"] == pytest.approx(sizes[3]["kv_bytes"] / 2, abs=1)
    document = (await keeping.post(f"{where}/save")).json()
    assert document == (await keeping.post(f"{where}/save", json={"to": "document"})).json()
    file = await keeping.post(f"{where}/save", json={"to": "file", "with_kv": True, "kv_share": None})
    assert 0 < len(file.content) <= sizes[1]["total_bytes"]
    usual = await keeping.post(f"{where}/save", json={"to": "file", "with_kv": True})
    assert len(usual.content) < len(file.content)
    assert len(usual.content) <= sizes[2]["total_bytes"]
    assert file.headers["content-disposition"].endswith('.npc"')
    kept = await keeping.post(f"{where}/save", json={"to": "server", "with_kv": True, "kv_share": None})
    assert kept.status_code == 201
    told = kept.json()
    assert {"player": "traveller", "lines": 1, "with_kv": True, "bytes": len(file.content)}.items() <= told.items()
    assert (await keeping.get("/v1/sessions")).json()["data"] == [told]
    assert (await keeping.get(f"/v1/sessions/{told['id']}")).content == file.content
    expected = await next_words(keeping, where)
    again = await gone_on(keeping, id=told["id"])
    assert await next_words(keeping, again) == expected
    assert await next_words(keeping, await gone_on(keeping, session=document)) == expected
    encoded = base64.b64encode(file.content).decode()
    assert await next_words(keeping, await gone_on(keeping, file=encoded)) == expected
    replaced = await keeping.post(f"{again}/save", json={"to": "server", "id": told["id"]})
    assert (replaced.status_code, replaced.json()["lines"], replaced.json()["id"]) == (200, 2, told["id"])
    assert (await keeping.delete(f"/v1/sessions/{told['id']}")).json()["deleted"] is True
    assert (await keeping.get("/v1/sessions")).json()["data"] == []


async def test_keys_and_values_of_an_upload_are_not_believed(
    keeping: httpx.AsyncClient, tiny_served: ServedModel
) -> None:
    where = await begun(keeping)
    file = await keeping.post(f"{where}/save", json={"to": "file", "with_kv": True})
    with zipfile.ZipFile(BytesIO(file.content)) as archive:
        assert {"session.json", "state.json"} <= set(archive.namelist())
    imported: list[object] = []
    engine = tiny_served.engine
    engine.import_prefix = lambda kv: imported.append(kv) or 0  # type: ignore[method-assign,func-returns-value]
    try:
        await gone_on(keeping, file=base64.b64encode(file.content).decode())
    finally:
        del engine.import_prefix  # type: ignore[method-assign]
    assert imported == []


async def test_one_keys_saves_are_not_anothers(tiny_served: ServedModel, tmp_path: Path) -> None:
    keys = KeyRing([ApiKey.of("one", name="one"), ApiKey.of("two", name="two")])
    with NpcStores.open(ServerOptions(sessions=tmp_path)) as stores:
        transport = httpx.ASGITransport(create_app(tiny_served, keys=keys, stores=stores))
        async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=120) as client:
            client.headers["authorization"] = "Bearer one"
            where = await begun(client)
            told = (await client.post(f"{where}/save", json={"to": "server"})).json()
            client.headers["authorization"] = "Bearer two"
            assert (await client.get("/v1/sessions")).json()["data"] == []
            for response in (
                await client.get(f"/v1/sessions/{told['id']}"),
                await client.delete(f"/v1/sessions/{told['id']}"),
                await client.post("/v1/npcs/load", json={"id": told["id"]}),
            ):
                assert (response.status_code, response.json()["error"]["code"]) == (404, "session_not_found")
            assert (await client.post(f"{where}/save", json={"to": "server"})).status_code == 404


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("save", {"to": "cloud"}, 400, "to"),
        ("save", {"with_kv": True}, 400, None),
        ("save", {"id": "session_1"}, 400, None),
        ("save", {"to": "file", "with_kv": True, "kv_share": 0}, 400, "kv_share"),
        ("save", {"to": "file", "with_kv": True, "kv_share": "all"}, 400, "kv_share"),
        ("save", {"to": "file", "kv_share": 0.4}, 400, None),
        ("save", {"to": "server", "id": "../../etc/passwd"}, 404, None),
        ("/v1/npcs/load", {}, 400, None),
        ("/v1/npcs/load", {"id": "../x"}, 404, None),
        ("/v1/npcs/load", {"file": "%"}, 400, "file"),
        ("/v1/npcs/load", {"file": base64.b64encode(b"PK\3\4 nothing").decode()}, 400, "file"),
        ("/v1/npcs/load", {"session": {}, "file": "eA=="}, 400, None),
    ],
)
async def test_slips(keeping: httpx.AsyncClient, path: str, body: Any, status: int, param: str | None) -> None:
    where = f"/v1/npcs/{(await keeping.post('/v1/npcs', json={'card': CARD})).json()['id']}/{path}"
    response = await keeping.post(path if path.startswith("/") else where, json=body)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (status, param), response.text
    assert "understudy-" not in json.dumps(error)  # no path of the server's


async def test_without_a_folder(tiny: httpx.AsyncClient) -> None:
    where = f"/v1/npcs/{(await tiny.post('/v1/npcs', json={'card': CARD})).json()['id']}"
    for response in (
        await tiny.post(f"{where}/save", json={"to": "server"}),
        await tiny.post("/v1/npcs/load", json={"id": "session_1"}),
        await tiny.get("/v1/sessions/session_1"),
    ):
        assert (response.status_code, response.json()["error"]["code"]) == (404, "no_session_folder")
    assert (await tiny.get("/v1/sessions")).json()["data"] == []
    assert (await tiny.get(f"{where}/save?with_kv=maybe")).json()["error"]["param"] == "with_kv"
    for share in ("all", "0", "-1", "nan", "1e308"):
        refused = await tiny.get(f"{where}/save?with_kv=true&kv_share={share}")
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "kv_share")
