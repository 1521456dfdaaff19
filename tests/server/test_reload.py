"""A model's file is replaced while it answers."""

import asyncio
import gc
import logging
import os
import threading
import weakref
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from fastapi import FastAPI

from understudy.model.gguf_writer import write_gguf
from understudy.server import KeyRing, ServedModel, create_app
from understudy.server.keys import ApiKey
from understudy.testing import byte_tokenizer, random_tensors, tiny_config

if TYPE_CHECKING:
    from conftest import Until

KEY = {"authorization": "Bearer operator"}
BODY = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "Hi"}],
    "temperature": 0,
    "max_tokens": 8,
    "logit_bias": {"3": -100, "4": -100, "5": -100},  # all that ends an answer
}


def put(path: Path, seed: int) -> None:
    """Write a model, and let it take the path's place whole."""
    config = tiny_config()
    part = path.with_suffix(".part")
    tensors = random_tensors(config, seed=seed)
    write_gguf(part, config, tensors, byte_tokenizer().definition, None, file_type="f16")
    os.utime(part, (seed, seed))  # `created` tells which one is served
    part.replace(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    put(tmp_path / "tiny.gguf", 1)
    return tmp_path / "tiny.gguf"


@pytest.fixture
def app(path: Path) -> Iterator[FastAPI]:
    ring = KeyRing([ApiKey.of("player", name="player")])
    app = create_app(ServedModel.at(path), api_key="operator", keys=ring)
    app.state.shelf.load()
    yield app
    app.state.shelf.close()


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=60, headers=KEY) as client:
        yield client


async def reload(client: httpx.AsyncClient, **fields: Any) -> httpx.Response:
    return await client.post("/v1/models/reload", json=fields)


async def answer(client: httpx.AsyncClient, **fields: Any) -> str:
    response = await client.post("/v1/chat/completions", json=BODY | fields)
    assert response.status_code == 200, response.text
    content: str = response.json()["choices"][0]["message"]["content"]
    return content


class Gate:
    """Stops a model before its next step."""

    def __init__(self, served: ServedModel) -> None:
        self.open, self.num_waiting = threading.Event(), 0
        backend = served.model.backend
        forward = backend.forward

        def wait(batch: Any) -> Any:
            self.num_waiting += 1
            assert self.open.wait(60)
            return forward(batch)

        backend.forward = wait  # type: ignore[method-assign]


async def test_the_new_one_answers_and_the_old_one_is_freed(
    client: httpx.AsyncClient, app: FastAPI, path: Path, until: "Until"
) -> None:
    before = await answer(client)
    old = weakref.ref(app.state.shelf.default.model.backend)
    put(path, 2)
    assert await answer(client) == before
    told = await reload(client, model="tiny")
    assert told.status_code == 200, told.text
    (result,) = told.json()["data"]
    assert (result["id"], result["status"], result["error"]) == ("tiny", "reloaded", None)
    assert (await client.get("/v1/models/tiny")).json()["created"] == 2
    after = await answer(client)
    assert after != before
    await until(lambda: not app.state.shelf.retired)

    def is_freed() -> bool:
        gc.collect()
        return old() is None

    await until(is_freed)
    put(path, 1)
    assert (await reload(client)).status_code == 200  # without a name: all
    assert await answer(client) == before


async def test_what_has_begun_ends_on_the_old_one(
    client: httpx.AsyncClient, app: FastAPI, path: Path, until: "Until"
) -> None:
    before = await answer(client)
    old = app.state.shelf.default
    gate = Gate(old)
    running = asyncio.create_task(answer(client))
    await until(lambda: gate.num_waiting > 0)
    put(path, 2)
    assert (await reload(client)).status_code == 200
    after = await answer(client)
    assert after != before
    assert app.state.shelf.retired == [old] and not running.done()
    assert (await client.get("/v1/health/ready")).status_code == 200
    figures = (await client.get("/metrics")).text
    assert 'request_success_total{model_name="tiny"} 2.0' in figures
    gate.open.set()
    assert await running == before
    await until(lambda: not app.state.shelf.retired)
    assert 'request_success_total{model_name="tiny"} 3.0' in (await client.get("/metrics")).text


async def test_a_request_that_is_about_to_begin(
    client: httpx.AsyncClient, app: FastAPI, path: Path, monkeypatch: pytest.MonkeyPatch, until: "Until"
) -> None:
    """Between the look at the shelf and the engine's queue: that is when a reload would close the engine."""
    before = await answer(client)
    may_go, is_there = threading.Event(), threading.Event()
    old = app.state.shelf.default
    encode = type(old.model).encode

    def wait(model: Any, conversation: Any) -> Any:
        if model is old.model:
            is_there.set()
            assert may_go.wait(60)
        return encode(model, conversation)

    monkeypatch.setattr(type(old.model), "encode", wait)
    running = asyncio.create_task(answer(client, user="somebody"))  # begun in a thread of its own
    await until(is_there.is_set)
    put(path, 2)
    assert (await reload(client)).status_code == 200
    await asyncio.sleep(0.2)  # long enough for an engine that is idle to be closed
    assert app.state.shelf.retired == [old]
    may_go.set()
    assert await running == before
    await until(lambda: not app.state.shelf.retired)


async def test_a_broken_file_leaves_the_old_one(
    client: httpx.AsyncClient, app: FastAPI, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = await answer(client)
    for content in (b"", b"GGUF\3\0\0\0", path.read_bytes()[:-1000]):
        path.with_suffix(".part").write_bytes(content)
        path.with_suffix(".part").replace(path)
        with caplog.at_level(logging.ERROR, "understudy.server.reload"):
            told = await reload(client)
        assert (told.status_code, told.json()["error"]["code"]) == (500, "reload_failed")
        assert "the old one goes on: " in told.json()["error"]["message"]
        assert "The model 'tiny' is not reloaded, the old one goes on: " in caplog.text
        caplog.clear()
        assert (await client.get("/v1/health/ready")).status_code == 200
        assert await answer(client) == before
    path.unlink()
    assert (await reload(client)).status_code == 500
    put(path, 2)
    assert (await reload(client)).status_code == 200
    assert await answer(client) != before


async def test_one_at_a_time(client: httpx.AsyncClient, app: FastAPI, until: "Until") -> None:
    served = app.state.shelf.default
    may_go = threading.Event()
    again = served._again

    def wait() -> ServedModel:
        assert may_go.wait(60)
        return again()

    served._again = wait
    first = asyncio.create_task(reload(client))
    await until(lambda: app.state.reloads.is_busy)
    second = await reload(client)
    assert (second.status_code, second.json()["error"]["code"]) == (409, "reload_in_progress")
    queued = asyncio.create_task(app.state.reloads.reload())  # SIGHUP waits for its turn
    may_go.set()
    assert (await first).status_code == 200
    assert [result["status"] for result in await queued] == ["reloaded"]


async def test_only_who_runs_the_server_may(client: httpx.AsyncClient, app: FastAPI) -> None:
    player = {"authorization": "Bearer player"}
    refused = await client.post("/v1/models/reload", json={}, headers=player)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "reload_not_allowed")
    nobody = await client.post("/v1/models/reload", json={}, headers={"authorization": ""})
    assert nobody.status_code == 401
    unknown = await reload(client, model="none")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
    assert (await reload(client, model=7)).status_code == 400
    open_app = create_app(*app.state.shelf.models)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(open_app), base_url="http://test") as without_keys:
        assert (await without_keys.post("/v1/models/reload", json={})).status_code == 403


async def test_a_model_without_a_file(client: httpx.AsyncClient, app: FastAPI) -> None:
    wrapped = create_app(ServedModel.wrap(app.state.shelf.default.model, name="wrapped"), api_key="operator")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(wrapped), base_url="http://test", headers=KEY) as other:
        told = await reload(other)
    assert (told.status_code, "came from no file" in told.text) == (500, True)


async def test_characters_go_over(client: httpx.AsyncClient, app: FastAPI, path: Path, until: "Until") -> None:
    made = await client.post("/v1/npcs", json={"card": {"name": "Tam", "description": "You are Tam."}})
    assert made.status_code == 201, made.text
    where = f"/v1/npcs/{made.json()['id']}"
    line = {"line": "Hi", "max_tokens": 6, "stream": False, "temperature": 0}
    assert (await client.post(f"{where}/say", json=line)).status_code == 200
    backend = weakref.ref(app.state.shelf.default.model.backend)
    gate = Gate(app.state.shelf.default)
    running = asyncio.create_task(client.post(f"{where}/say", json=line))
    await until(lambda: gate.num_waiting > 0)
    put(path, 2)
    assert (await reload(client)).status_code == 200
    gate.open.set()
    assert (await running).status_code == 200  # its line ended where it began
    await until(lambda: not app.state.shelf.retired)

    def is_freed() -> bool:
        gc.collect()
        return backend() is None

    await until(is_freed)
    silent = await client.get(f"{where}/why")
    assert (silent.status_code, silent.json()["error"]["code"]) == (409, "npc_silent")
    assert (await client.post(f"{where}/say", json=line)).status_code == 200
    assert (await client.get(f"{where}/why")).status_code == 200
    said = [m["content"] for m in (await client.get(where)).json()["history"] if m["role"] == "user"]
    assert said == ["Hi", "Hi", "Hi"]


async def test_the_end_of_the_server_ends_the_old_one_too(
    client: httpx.AsyncClient, app: FastAPI, path: Path, until: "Until"
) -> None:
    gate = Gate(app.state.shelf.default)
    running = asyncio.create_task(client.post("/v1/chat/completions", json=BODY))
    await until(lambda: gate.num_waiting > 0)
    assert (await reload(client)).status_code == 200
    closing = asyncio.create_task(asyncio.to_thread(app.state.shelf.close))
    assert (await asyncio.wait_for(running, 60)).status_code == 500
    gate.open.set()
    await asyncio.wait_for(closing, 60)
