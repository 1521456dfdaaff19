"""A server whose engine has a process of its own, which ends."""

import asyncio
import gc
import os
import signal
import sys
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from understudy.engine import RemoteEngine, SamplingParams
from understudy.kernels.formats import StorageType
from understudy.model.gguf_writer import write_gguf, write_gguf_tensors
from understudy.model.native_backend import why_not_native
from understudy.prompt import Conversation, Message
from understudy.server import ServedModel, create_app
from understudy.testing import byte_tokenizer, random_tensors, tiny_config

if TYPE_CHECKING:
    from conftest import Until

BODY: dict[str, Any] = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "Hi"}],
    "temperature": 0,
    "logit_bias": {"3": -100, "4": -100, "5": -100},  # all that ends an answer
}
CHAT = "/v1/chat/completions"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")


@pytest.fixture
def served(tmp_path: Path) -> ServedModel:
    path, config = tmp_path / "tiny.gguf", tiny_config()
    write_gguf(path, config, random_tensors(config), byte_tokenizer().definition, None, file_type="f16")
    return ServedModel.at(path, own_process=True)


@pytest.fixture
async def client(served: ServedModel) -> AsyncIterator[httpx.AsyncClient]:
    app: FastAPI = create_app(served)
    app.state.shelf.load()
    try:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://127.0.0.1", timeout=60
        ) as client:
            yield client
    finally:
        app.state.shelf.close()


def kill(served: ServedModel) -> RemoteEngine:
    engine = served.engine
    assert isinstance(engine, RemoteEngine)
    os.kill(engine.pid, signal.SIGKILL)
    return engine


async def test_it_answers_as_one_in_this_process(client: httpx.AsyncClient, served: ServedModel) -> None:
    """Whole and streamed, with functions, likelihoods, several choices, and vectors."""
    path = served.model.files.path
    here = ServedModel.at(path)
    app = create_app(here)
    app.state.shelf.load()
    tool = {"type": "function", "function": {"name": "open_gate", "parameters": {"type": "object", "properties": {}}}}
    bodies = [
        {**BODY, "max_tokens": 8},
        {**BODY, "max_tokens": 8, "n": 2, "temperature": 1, "seed": 3},
        {**BODY, "max_tokens": 8, "logprobs": True, "top_logprobs": 2},
        {**BODY, "max_tokens": 60, "tools": [tool], "tool_choice": "required"},
        {**BODY, "max_tokens": 8, "stop": ["a"]},
        {**BODY, "max_tokens": 5000},
        {**BODY, "max_tokens": 8, "response_format": {"type": "json_object"}, "messages": BODY["messages"] * 3},
    ]
    try:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as other:
            for body in bodies:
                answers = [(await one.post(CHAT, json=body)).json() for one in (client, other)]
                for answer in answers:
                    for part in (answer, *[c for ch in answer["choices"] for c in ch["message"].get("tool_calls", [])]):
                        part.pop("id")
                    answer.pop("created")
                assert answers[0] == answers[1]
            vectors = [
                (await one.post("/v1/embeddings", json={"model": "tiny", "input": ["a", "bc"]})).json()
                for one in (client, other)
            ]
            assert vectors[0] == vectors[1]
            shapes = [(await one.get("/v1/manifest")).json() for one in (client, other)]
            assert shapes[0] == shapes[1]
    finally:
        app.state.shelf.close()


def write_adapter(path: Path, scale: float) -> Path:
    """One that changes what every layer hands on."""
    keys = {"general.architecture": "nemotron", "general.type": "adapter", "adapter.type": "lora"}
    rng = np.random.default_rng(1)
    values = {"lora_a": rng.standard_normal((2, 64)), "lora_b": scale * rng.standard_normal((64, 2))}
    names = {f"blk.{n}.attn_output.weight.{end}": v.astype("<f4") for n in range(2) for end, v in values.items()}
    shapes = {name: (value.shape, StorageType.F32) for name, value in names.items()}
    write_gguf_tensors(path, {**keys, "adapter.lora.alpha": 2.0}, shapes, lambda n: names[n].reshape(-1).view(np.uint8))
    return path


@pytest.mark.skipif(why_not_native(tiny_config()) is not None, reason="no native kernels")
def test_adapters_share_the_weights_of_a_model_in_this_process(served: ServedModel, tmp_path: Path) -> None:
    path, adapter = tmp_path / "tiny.gguf", write_adapter(tmp_path / "bandit.gguf", 0.5)
    base = ServedModel.at(path)
    shared, alone = ServedModel.at(path, adapter=adapter, base=base), ServedModel.at(path, adapter=adapter)
    for one in (base, shared, alone, served):
        one.load()
    try:
        talk = Conversation(messages=(Message(role="user", content="Hi"),))
        how = SamplingParams(temperature=0, logit_bias=dict.fromkeys((3, 4, 5), -100.0))
        said = [one.model.generate(talk, sampling=how, max_tokens=12).text() for one in (base, shared, alone)]
        assert said[1] == said[2] != said[0]
        sizes = [one.engine.facts.memory.weight_bytes for one in (base, shared, alone)]
        assert 10 * sizes[1] < sizes[0]
        assert shared.parent == "tiny"
        assert shared.model.fingerprint != base.model.fingerprint

        write_adapter(adapter, 5.0)
        renewed = shared.renewed()  # by its own name; the base is left alone
        assert renewed.engine.facts.memory.weight_bytes == sizes[1]
        assert renewed.model.generate(talk, sampling=how, max_tokens=12).text() != said[1]
        gone = weakref.ref(base.model.backend)
        newer = base.renewed()
        base.close()
        gc.collect()
        assert gone() is None
        assert shared.model.generate(talk, sampling=how, max_tokens=12).text() == said[1]  # it holds what it shares
        again = renewed.renewed()
        assert again.engine.facts.memory.weight_bytes == sizes[1]  # with the base that took the other's place

        config, part = tiny_config(), tmp_path / "part"
        write_gguf(part, config, random_tensors(config, seed=1), byte_tokenizer().definition, None, file_type="f16")
        part.replace(path)
        other = again.renewed()  # the file is not what the base was made of
        assert other.engine.facts.memory.weight_bytes > sizes[0] // 2
        assert ServedModel.at(path, adapter=adapter, base=served).shareable is None  # in a process of its own
        for one in (renewed, newer, again, other):
            one.close()
    finally:
        for one in (base, shared, alone, served):
            one.close()


async def test_an_answer_whose_engine_ends_says_so(
    client: httpx.AsyncClient, served: ServedModel, until: "Until"
) -> None:
    asked = asyncio.create_task(client.post(CHAT, json={**BODY, "stream": True, "max_tokens": 4000}))
    while not served.engine.stats().num_running:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.05)  # some words are there
    killed = kill(served)
    text = (await asked).text
    assert '"content":"' in text
    assert "not complete" in text
    assert text.endswith("data: [DONE]\n\n")
    await until(lambda: killed.absence is None)
    assert (await client.post(CHAT, json={**BODY, "max_tokens": 4})).status_code == 200


async def test_meanwhile_it_is_not_ready(client: httpx.AsyncClient, served: ServedModel, until: "Until") -> None:
    assert (await client.get("/v1/health/ready")).status_code == 200
    engine = kill(served)
    await until(lambda: engine.absence is not None)
    ready, live, chat, metrics, manifest = [
        await client.get("/v1/health/ready"),
        await client.get("/v1/health/live"),
        await client.post(CHAT, json=BODY),
        await client.get("/metrics"),
        await client.get("/v1/manifest"),
    ]
    assert (ready.status_code, live.status_code, metrics.status_code, manifest.status_code) == (503, 200, 200, 200)
    assert (chat.status_code, chat.headers["retry-after"]) == (503, "2")
    assert chat.json()["error"]["code"] == "engine_absent"
    await until(lambda: engine.absence is None)
    assert (await client.get("/v1/health/ready")).status_code == 200


async def test_one_whose_file_was_replaced_waits_for_a_reload(
    client: httpx.AsyncClient, served: ServedModel, tmp_path: Path, until: "Until"
) -> None:
    config, part = tiny_config(), tmp_path / "part"
    write_gguf(part, config, random_tensors(config, seed=1), byte_tokenizer().definition, None, file_type="f16")
    part.replace(tmp_path / "tiny.gguf")
    engine = kill(served)
    await until(lambda: "another file" in str(engine.absence))
    answer = await client.post(CHAT, json=BODY)
    assert answer.status_code == 503
    assert "reload the model" in answer.json()["error"]["message"]
    reloads = client._transport.app.state.reloads  # type: ignore[attr-defined]
    assert [one["status"] for one in await reloads.reload()] == ["reloaded"]
    assert (await client.post(CHAT, json={**BODY, "max_tokens": 4})).status_code == 200
