"""Streamed and whole answers of a model that may call anything, call by call."""

import json
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
import jsonschema
import pytest

if TYPE_CHECKING:
    Body = Callable[..., dict[str, Any]]
    Events = Callable[[str], list[dict[str, Any]]]

CHAT = "/v1/chat/completions"
OPEN_CALL = "10"  # id of <toolcall>
KINDS: list[dict[str, Any]] = [
    {"type": "boolean"},
    {"type": "integer", "minimum": -5, "maximum": 500},
    {"type": "number", "exclusiveMinimum": 0, "maximum": 9},
    {"type": "string", "maxLength": 12},
    {"type": "string", "pattern": "^[a-c]{1,3}-[0-9]$"},
    {"enum": ["north", 'the "south"', "żółw 🐢", "</toolcall>", 3, None]},
    {"type": "array", "items": {"type": "string", "maxLength": 3}, "maxItems": 3},
    {"anyOf": [{"const": "all"}, {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}]},
]


def a_tool(rng: random.Random, name: str) -> dict[str, Any]:
    properties = {f"p{n}": rng.choice(KINDS) for n in range(rng.randint(0, 4))}
    required = [key for key in properties if rng.random() < 0.7]
    parameters = {"type": "object", "properties": properties, "required": required}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def a_case(number: int) -> dict[str, Any]:
    rng = random.Random(number)
    tools = [a_tool(rng, name) for name in rng.sample(["rent", "open_gate", "remember", "sell.all"], rng.randint(1, 3))]
    named = {"type": "function", "function": {"name": tools[-1]["function"]["name"]}}
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [named]}}
    fields: dict[str, Any] = {
        "tools": tools,
        "tool_choice": rng.choice(["auto", "auto", "required", named, allowed, "none"]),
        "parallel_tool_calls": rng.choice([True, False, None]),
        "logit_bias": {OPEN_CALL: rng.choice([-3, 4, 7])},
        "temperature": rng.random() * 2,
        "seed": number,
        "max_tokens": rng.choice([1, 20, 60, 200]),
        "n": rng.choice([1, 1, 1, 3]),
    }
    if fields["tool_choice"] == "auto" and rng.random() < 0.4:
        fields["response_format"] = {"type": "json_schema", "json_schema": {"name": "x", "schema": rng.choice(KINDS)}}
    return fields


def rebuilt(chunks: list[dict[str, Any]], index: int) -> dict[str, Any]:
    """A choice of a stream, as clients rebuild it."""
    own = [c["choices"][0] for c in chunks if c["choices"] and c["choices"][0]["index"] == index]
    calls: list[dict[str, Any]] = []
    for part in (part for choice in own for part in choice["delta"].get("tool_calls", ())):
        if part["index"] == len(calls):
            assert part["id"].startswith("call_")
            calls.append({"name": part["function"]["name"], "arguments": ""})
        else:
            assert part.keys() == {"index", "function"} and part["function"].keys() == {"arguments"}
            assert part["index"] == len(calls) - 1
        calls[-1]["arguments"] += part["function"]["arguments"]
    content = "".join(choice["delta"].get("content") or "" for choice in own)
    assert [choice["finish_reason"] for choice in own[:-1]] == [None] * (len(own) - 1)
    return {"content": content, "calls": calls, "finish_reason": own[-1]["finish_reason"]}


def check_choice(whole: dict[str, Any], streamed: dict[str, Any], fields: dict[str, Any]) -> int:
    """The two agree, and with what was asked; the number of calls."""
    message, choice, reason = whole["message"], fields["tool_choice"], whole["finish_reason"]
    calls = [call["function"] for call in message.get("tool_calls", ())]
    assert streamed["finish_reason"] == reason
    assert streamed["content"] == (message["content"] or "")
    assert streamed["calls"][: len(calls)] == calls
    assert len(streamed["calls"]) - len(calls) <= (reason == "length")
    schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in fields["tools"]}
    for call in calls:
        jsonschema.validate(json.loads(call["arguments"]), schemas[call["name"]])
    if isinstance(choice, dict):
        assert {call["name"] for call in calls} <= {fields["tools"][-1]["function"]["name"]}
    if choice == "none":
        assert not calls
    if fields["parallel_tool_calls"] is False:
        assert len(calls) <= 1
    if reason != "length":
        assert bool(calls) or choice in ("auto", "none")
        is_named = isinstance(choice, dict) and choice["type"] == "function"
        assert reason == ("tool_calls" if calls and not is_named else "stop")
        if "response_format" in fields and not calls:
            jsonschema.validate(json.loads(message["content"]), fields["response_format"]["json_schema"]["schema"])
    return len(calls)


async def num_calls_that_agree(client: httpx.AsyncClient, body: "Body", events: "Events", numbers: range) -> int:
    num_calls = 0
    for number in numbers:
        fields = a_case(number)
        whole = (await client.post(CHAT, json=body(**fields))).json()
        options = {"stream": True, "stream_options": {"include_usage": True}}
        chunks = events((await client.post(CHAT, json=body(**fields, **options))).text)
        assert chunks[-1]["usage"] == whole["usage"]
        for index, choice in enumerate(whole["choices"]):
            num_calls += check_choice(choice, rebuilt(chunks, index), fields)
    return num_calls


async def test_streamed_and_whole_answers_agree(tiny: httpx.AsyncClient, body: "Body", events: "Events") -> None:
    assert await num_calls_that_agree(tiny, body, events, range(12)) > 5


@pytest.mark.slow
async def test_five_hundred_answers_agree(tiny: httpx.AsyncClient, body: "Body", events: "Events") -> None:
    assert await num_calls_that_agree(tiny, body, events, range(500)) > 150
