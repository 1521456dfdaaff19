import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest

if TYPE_CHECKING:
    from conftest import Stage

    Body = Callable[..., dict[str, Any]]
    Events = Callable[[str], list[dict[str, Any]]]

CHAT = "/v1/chat/completions"
TOOLS = [{"type": "function", "function": {"name": "ring"}}]


def text_of(entries: list[dict[str, Any]]) -> str:
    return b"".join(bytes(entry["bytes"]) for entry in entries).decode()


@pytest.mark.parametrize(
    ("script", "fields"),
    [
        ("Hello.", {}),
        ("\n Hé 🕯, \n you.\n \n", {}),
        ("Well, stop it", {"stop": ["stop", "it"]}),
        ("one st two", {"stop": ["st two!"]}),
        ("Cut off.", {"max_tokens": 4}),
        ('At once.\n<toolcall> {"name": "ring", "arguments": {}} </toolcall>', {"tools": TOOLS}),
        (" yes ", {"guided_choice": [" yes "]}),
    ],
)
async def test_the_tokens_are_the_text(
    client: httpx.AsyncClient, body: "Body", stage: "Stage", events: "Events", script: str, fields: dict[str, Any]
) -> None:
    stage.script = script
    asked = body(logprobs=True, top_logprobs=2, **fields)
    choice = (await client.post(CHAT, json=asked)).json()["choices"][0]
    entries = choice["logprobs"]["content"]
    assert choice["logprobs"].keys() == {"content", "refusal"}
    assert text_of(entries) == choice["message"]["content"]
    chunks = [c["choices"][0] for c in events((await client.post(CHAT, json=asked | {"stream": True})).text)]
    told = [c["logprobs"]["content"] for c in chunks if c["logprobs"]]
    assert [entry for part in told for entry in part] == entries
    for chunk in chunks:
        if chunk["logprobs"] and "content" in chunk["delta"]:
            assert text_of(chunk["logprobs"]["content"]) == chunk["delta"]["content"]


async def test_entries(client: httpx.AsyncClient, body: "Body", stage: "Stage") -> None:
    answer = (await client.post(CHAT, json=body(logprobs=True, top_logprobs=20))).json()
    first, *_ = answer["choices"][0]["logprobs"]["content"]
    assert first.keys() == {"token", "logprob", "bytes", "top_logprobs"}
    assert (first["token"], first["bytes"]) == ("H", [ord("H")])
    assert first["logprob"] == pytest.approx(0, abs=1e-6)
    top = first["top_logprobs"]
    assert len(top) == 20
    assert top[0] == {key: first[key] for key in ("token", "logprob", "bytes")}
    assert top[1]["logprob"] == pytest.approx(-60, abs=1e-3)
    assert {"token": "<pad>", "logprob": top[1]["logprob"], "bytes": None} in top
    assert sorted((entry["logprob"] for entry in top), reverse=True) == [entry["logprob"] for entry in top]
    plain = (await client.post(CHAT, json=body(logprobs=True))).json()["choices"][0]["logprobs"]["content"]
    assert [entry["top_logprobs"] for entry in plain] == [[]] * 6
    assert (await client.post(CHAT, json=body(logprobs=False))).json()["choices"][0]["logprobs"] is None


async def test_what_a_grammar_forces_is_certain(tiny: httpx.AsyncClient, body: "Body") -> None:
    asked = body(logprobs=True, top_logprobs=5, guided_regex="ye[sp]", temperature=1, seed=1)
    y, e, last = (await tiny.post(CHAT, json=asked)).json()["choices"][0]["logprobs"]["content"]
    assert (y["logprob"], e["logprob"]) == (0, 0)
    assert {entry["token"] for entry in last["top_logprobs"]} == {"s", "p"}
    assert sum(math.exp(entry["logprob"]) for entry in last["top_logprobs"]) == pytest.approx(1)


async def test_the_sdk(tiny: httpx.AsyncClient, body: "Body") -> None:
    client = openai.AsyncOpenAI(base_url="http://test/v1", api_key="-", http_client=tiny)
    fields: dict[str, Any] = body(logprobs=True, top_logprobs=3, seed=2, extra_body={"guided_regex": "[a-z]{5}"})
    whole = (await client.chat.completions.create(**fields)).choices[0]
    async with client.chat.completions.stream(**fields) as stream:
        final = (await stream.get_final_completion()).choices[0]
    assert whole.logprobs is not None and final.logprobs is not None
    assert final.logprobs.content == whole.logprobs.content
    assert "".join(entry.token for entry in whole.logprobs.content or ()) == whole.message.content
    for entry in whole.logprobs.content or ():
        assert len(entry.top_logprobs) == 3
        assert entry.logprob <= entry.top_logprobs[0].logprob


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": False, "top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": -1}, "top_logprobs"),
        ({"logprobs": 5}, "logprobs"),
    ],
)
async def test_refusals(client: httpx.AsyncClient, body: "Body", fields: dict[str, Any], param: str) -> None:
    response = await client.post(CHAT, json=body(**fields))
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
