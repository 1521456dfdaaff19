"""Whole answers, pieces of streams and errors have the shape that OpenAI's document gives them.

CI holds some requests to schemas written here. `pytest -m clients` holds 300 to OpenAI's own document, which is too
large to keep here: OPENAI_OPENAPI names a copy (github.com/openai/openai-openapi, in YAML).
"""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

Check = Callable[[str, Any], None]  # the name of a schema, a value

TOOL = {
    "type": "function",
    "function": {
        "name": "rent_room",
        "parameters": {
            "type": "object",
            "properties": {"nights": {"type": "integer", "minimum": 1, "maximum": 30}},
            "required": ["nights"],
            "additionalProperties": False,
        },
    },
}
MOOD = {"type": "object", "properties": {"mood": {"enum": ["glad", "sad"]}}, "required": ["mood"]}
ASKED = [{"role": "user", "content": "A room for two nights, please."}]
CALLED = [
    *ASKED,
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "rent_room", "arguments": "{}"}}],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "done"},
]
GOOD: tuple[dict[str, Any], ...] = (
    {},
    {"stop": ["e", "a"]},
    {"n": 3, "seed": 7},
    {"logprobs": True},
    {"logprobs": True, "top_logprobs": 5, "n": 2},
    {"tools": [TOOL]},
    {"tools": [TOOL], "messages": CALLED},
    {"tools": [TOOL], "tool_choice": "none", "logprobs": True},
    {"tools": [TOOL], "tool_choice": "required", "max_tokens": 60},
    {"tools": [TOOL], "tool_choice": "required", "n": 2, "logprobs": True},
    {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "rent_room"}}, "max_tokens": 60},
    {"tools": [TOOL], "tool_choice": "required", "max_tokens": 1},
    {"response_format": {"type": "text"}},
    {"response_format": {"type": "json_object"}},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "mood", "schema": MOOD}}, "max_tokens": 40},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "mood", "schema": MOOD}}, "logprobs": True},
    {"nvext": {"guided_choice": ["yes", "no"]}, "logprobs": True, "top_logprobs": 20},
    {"guided_regex": "[0-9]{2}:[0-9]{2}", "n": 2},
    {"logit_bias": {"100": -100}, "frequency_penalty": 0.5, "presence_penalty": 0.5, "user": "someone"},
    {
        "messages": [{"role": "system", "content": "You are Pym."}, {"role": "user", "content": "ночь 🌙"}],
        "logprobs": True,
    },
)
# What is sent, and the status that must come.
BAD: tuple[tuple[dict[str, Any], int], ...] = (
    ({"model": "gpt-4o"}, 404),
    ({"messages": []}, 400),
    ({"messages": None}, 400),
    ({"messages": [{"role": "wizard", "content": "x"}]}, 400),
    ({"messages": [{"role": "user", "content": "x " * 20000}]}, 400),
    ({"temperature": -1}, 400),
    ({"top_p": "much"}, 400),
    ({"n": 1000}, 400),
    ({"top_logprobs": 3}, 400),
    ({"top_logprobs": 21, "logprobs": True}, 400),
    ({"max_tokens": 0}, 400),
    ({"tool_choice": "required"}, 400),
    ({"tools": [{"type": "function", "function": {"name": "no spaces"}}]}, 400),
    ({"response_format": {"type": "json_schema"}}, 400),
    ({"response_format": {"type": "xml"}}, 400),
    ({"guided_regex": "("}, 400),
    ({"logit_bias": {"word": 1}}, 400),
)
TOKEN = {
    "type": "object",
    "properties": {
        "token": {"type": "string"},
        "logprob": {"type": "number", "maximum": 0},
        "bytes": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 255}},
    },
    "required": ["token", "logprob", "bytes"],
}
TOKENS = {"type": "array", "items": {**TOKEN, "required": [*TOKEN["required"], "top_logprobs"]}}
LOGPROBS = {
    "type": ["object", "null"],
    "properties": {"content": TOKENS, "refusal": {"type": "null"}},
    "required": ["content", "refusal"],
    "additionalProperties": False,
}
USAGE = {
    "type": ["object", "null"],
    "required": ["prompt_tokens", "completion_tokens", "total_tokens"],
    "additionalProperties": {"type": ["integer", "object"]},
}
REASONS = ["stop", "length", "tool_calls"]


def part(**properties: Any) -> dict[str, Any]:
    """An object with these keys and no others; a name that ends in an underscore may be missing."""
    required = [name for name in properties if not name.endswith("_")]
    named = {name.rstrip("_"): schema for name, schema in properties.items()}
    return {"type": "object", "properties": named, "required": required, "additionalProperties": False}


TEXT, INDEX, NULL_OR_TEXT = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": ["string", "null"]}
CALL = part(id=TEXT, type={"const": "function"}, function=part(name=TEXT, arguments=TEXT))
CALL_PIECE = part(index=INDEX, id_=TEXT, type_={"const": "function"}, function=part(name_=TEXT, arguments=TEXT))
HEAD = {"id": {"type": "string", "pattern": "^chatcmpl-"}, "created": INDEX, "model": TEXT}
OURS: dict[str, Any] = {
    "CreateChatCompletionResponse": part(
        **HEAD,
        object={"const": "chat.completion"},
        choices={
            "type": "array",
            "minItems": 1,
            "items": part(
                index=INDEX,
                message=part(
                    role={"const": "assistant"},
                    content=NULL_OR_TEXT,
                    refusal={"type": "null"},
                    tool_calls_={"type": "array", "items": CALL, "minItems": 1},
                ),
                logprobs=LOGPROBS,
                finish_reason={"enum": REASONS},
            ),
        },
        usage={**USAGE, "type": "object"},
        system_fingerprint_=TEXT,
    ),
    "CreateChatCompletionStreamResponse": part(
        **HEAD,
        object={"const": "chat.completion.chunk"},
        choices={
            "type": "array",
            "maxItems": 1,
            "items": part(
                index=INDEX,
                delta=part(
                    role_={"const": "assistant"},
                    content_=NULL_OR_TEXT,
                    tool_calls_={"type": "array", "items": CALL_PIECE, "minItems": 1},
                ),
                logprobs=LOGPROBS,
                finish_reason={"enum": [*REASONS, None]},
            ),
        },
        usage_=USAGE,
        system_fingerprint_=TEXT,
    ),
    "ErrorResponse": part(error=part(message=TEXT, type=TEXT, param=NULL_OR_TEXT, code=NULL_OR_TEXT)),
}


def check_ours(name: str, value: Any) -> None:
    Draft202012Validator(OURS[name]).validate(value)


@pytest.fixture(scope="module")
def check_openais() -> Check:
    """By OpenAI's document; its `nullable` is a word of an older OpenAPI."""
    file = os.environ.get("OPENAI_OPENAPI")
    if not file:
        pytest.skip("Set OPENAI_OPENAPI to OpenAI's document.")
    yaml = pytest.importorskip("yaml", reason="pip install pyyaml")
    loaded = yaml.load(Path(file).read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    components = nullable_as_null(loaded["components"])

    def check(name: str, value: Any) -> None:
        schema = {"$ref": f"#/components/schemas/{name}", "components": components}
        Draft202012Validator(schema).validate(value)

    return check


def nullable_as_null(schema: Any) -> Any:
    if isinstance(schema, list):
        return [nullable_as_null(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    mended = {name: nullable_as_null(value) for name, value in schema.items()}
    return {"anyOf": [mended, {"type": "null"}]} if schema.get("nullable") is True else mended


def ask(client: httpx.Client, fields: dict[str, Any], status: int, check: Check) -> int:
    """Send one request and check all that comes; how many values were checked."""
    body = {"model": "harrow", "messages": ASKED, "max_tokens": 24, **fields}
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == status, (fields, answer.text)
    if status != 200:
        check("ErrorResponse", answer.json())
        return 1
    if not body.get("stream"):
        check("CreateChatCompletionResponse", answer.json())
        assert len(answer.json()["choices"]) == body.get("n", 1)
        return 1
    *events, last = answer.text.removesuffix("\n\n").split("\n\n")
    assert last == "data: [DONE]"
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    for chunk in chunks:
        check("CreateChatCompletionStreamResponse", chunk)
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    ends = [choice["index"] for chunk in chunks for choice in chunk["choices"] if choice["finish_reason"]]
    assert sorted(ends) == list(range(body.get("n", 1)))
    return len(chunks)


def mixed(number: int) -> tuple[dict[str, Any], int]:
    """A request and the status it must get: two of three are good, half of them streams."""
    rng = random.Random(number)
    fields, status = dict(GOOD[number % len(GOOD)]), 200
    if number % 3 == 2:
        wrong, status = BAD[number // 3 % len(BAD)]
        fields = dict(wrong)
    if rng.random() < 0.5:
        fields["stream"] = True
        if rng.random() < 0.5:
            fields["stream_options"] = {"include_usage": True}
    fields["temperature"] = fields.get("temperature", rng.choice((0, 0.7, 1.3)))
    return fields, status


@pytest.fixture
def client(server: str, key: str) -> Any:
    with httpx.Client(base_url=server, headers={"Authorization": f"Bearer {key}"}, timeout=120) as client:
        yield client


def check_border(client: httpx.Client, check: Check) -> None:
    """Errors that come before any route's own."""
    json_type = {"Content-Type": "application/json"}
    path = "/v1/chat/completions"
    refused = {
        400: client.post(path, content=b"{", headers=json_type),
        401: client.post(path, json={}, headers={"Authorization": "Bearer other"}),
        404: client.get("/v1/nothing"),
        405: client.get(path),
        413: client.post(path, content=b" " * (5 << 20), headers=json_type),
        415: client.post(path, data={"model": "harrow"}),
    }
    for status, answer in refused.items():
        assert answer.status_code == status, answer.text
        check("ErrorResponse", answer.json())


def test_ours(client: httpx.Client) -> None:
    check_border(client, check_ours)
    num_checked = sum(ask(client, *mixed(number), check_ours) for number in range(0, 60, 3))
    num_checked += sum(ask(client, *mixed(number), check_ours) for number in range(2, 60, 6))
    assert num_checked > 60


@pytest.mark.clients
def test_openais(client: httpx.Client, check_openais: Check) -> None:
    check_border(client, check_openais)
    num_checked = 6 + sum(ask(client, *mixed(number), check_openais) for number in range(294))
    print(f"{num_checked} answers, pieces of streams and errors")
    assert num_checked > 1000
