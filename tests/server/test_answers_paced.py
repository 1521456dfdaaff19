"""Streams whose pieces gather: what a client reads is the same, in fewer events."""

import dataclasses
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from conftest import Stage

    Body = Callable[..., dict[str, Any]]
    Events = Callable[[str], list[dict[str, Any]]]

CHAT = "/v1/chat/completions"
CALLS = (
    '<toolcall> {"name": "open_gate", "arguments": {"side": "north"}} </toolcall>\n'
    '<toolcall> {"name": "open_gate", "arguments": {"side": "south"}} </toolcall>'
)
SIDE = {"type": "object", "properties": {"side": {"type": "string"}}, "required": ["side"]}
TOOLS = [{"type": "function", "function": {"name": "open_gate", "parameters": SIDE}}]
LINE = "Good evening, and welcome to the Dry Boot, traveller."


@pytest.fixture(autouse=True)
def paced(stage: "Stage") -> None:
    """The longest interval that there is: the script is over before."""
    stage.served.options = dataclasses.replace(stage.served.options, stream_interval_ms=1000)
    stage.script = LINE


async def test_words_gather_after_the_first(client: httpx.AsyncClient, body: "Body", events: "Events") -> None:
    chunks = [c["choices"][0] for c in events((await client.post(CHAT, json=body(stream=True))).text)]
    assert chunks[0]["delta"] == {"role": "assistant", "content": ""}
    assert chunks[-1] == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}
    words = [c["delta"]["content"] for c in chunks[1:-1]]
    assert words[0] == LINE[0]
    assert "".join(words) == LINE
    assert len(words) < len(LINE) / 2


async def test_every_choice_gathers_its_own(client: httpx.AsyncClient, body: "Body", events: "Events") -> None:
    chunks = [c["choices"][0] for c in events((await client.post(CHAT, json=body(stream=True, n=3))).text)]
    for index in range(3):
        own = [c for c in chunks if c["index"] == index]
        assert "".join(c["delta"].get("content", "") for c in own) == LINE
        assert [c["finish_reason"] for c in own if c["finish_reason"]] == ["stop"]
        assert len(own) < len(LINE) / 2


async def test_calls_are_named_once_and_their_arguments_join(
    stage: "Stage", client: httpx.AsyncClient, body: "Body", events: "Events"
) -> None:
    stage.script = CALLS
    chunks = [c["choices"][0] for c in events((await client.post(CHAT, json=body(tools=TOOLS, stream=True))).text)]
    calls: list[dict[str, str]] = []
    for part in (part for c in chunks for part in c["delta"].get("tool_calls", ())):
        if part["index"] == len(calls):
            calls.append({"id": part["id"], "name": part["function"]["name"], "arguments": ""})
        calls[part["index"]]["arguments"] += part["function"]["arguments"]
        assert ("id" in part) == ("name" in part["function"])
    assert [json.loads(call["arguments"]) for call in calls] == [{"side": "north"}, {"side": "south"}]
    assert [call["name"] for call in calls] == ["open_gate"] * 2
    assert len({call["id"] for call in calls}) == 2
    assert chunks[-1]["finish_reason"] == "tool_calls"


async def test_logprobs_of_all_tokens_come(client: httpx.AsyncClient, body: "Body", events: "Events") -> None:
    asked = body(logprobs=True, top_logprobs=1)
    whole = (await client.post(CHAT, json=asked)).json()["choices"][0]
    chunks = [c["choices"][0] for c in events((await client.post(CHAT, json=asked | {"stream": True})).text)]
    told = [entry for c in chunks if c["logprobs"] for entry in c["logprobs"]["content"]]
    assert told == whole["logprobs"]["content"]
    assert "".join(entry["token"] for entry in told) == LINE


async def test_a_failure_comes_after_the_words_before_it(
    client: httpx.AsyncClient, body: "Body", stage: "Stage", events: "Events"
) -> None:
    stage.failure, stage.fails_after = RuntimeError("no memory"), 5
    chunks = events((await client.post(CHAT, json=body(stream=True))).text)
    said = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks[:-1])
    assert said == LINE[: len(said)] != ""
    assert chunks[-1]["error"]["type"] == "server_error"


async def test_the_legacy_route(client: httpx.AsyncClient, stage: "Stage", events: "Events") -> None:
    messages = [{"role": "user", "content": "Hi"}]
    ids = (await client.post("/tokenize", json={"messages": messages})).json()["tokens"]
    asked = {"model": "harrow", "prompt": ids, "max_tokens": 99, "logprobs": 1, "stream": True}
    chunks = [c["choices"][0] for c in events((await client.post("/v1/completions", json=asked)).text)]
    assert "".join(c["text"] for c in chunks) == LINE
    offsets = [offset for c in chunks for offset in c["logprobs"]["text_offset"]]
    assert offsets == list(range(len(LINE)))
    assert chunks[0]["text"] == LINE[0]
    assert len(chunks) < len(LINE) / 2


async def test_lines_of_characters(client: httpx.AsyncClient) -> None:
    npc = (await client.post("/v1/npcs", json={"character": "minnow"})).json()["id"]
    response = await client.post(f"/v1/npcs/{npc}/say", json={"line": "Good evening!", "stream": True})
    told = [json.loads(part.partition("data: ")[2]) for part in response.text.split("\n\n") if part]
    *words, end = told
    assert {event["type"] for event in words} == {"words"}
    assert "".join(event["text"] for event in words) == end["text"] == LINE
    assert len(words) < len(LINE) / 2
