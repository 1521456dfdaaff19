"""Whole answers, pieces of streams, vectors, models and errors have the shape that OpenAI's document gives them.

CI holds some requests to schemas written here. `pytest -m clients` holds 300 to OpenAI's own document, which is too
large to keep here: OPENAI_OPENAPI names a copy (github.com/openai/openai-openapi, in YAML).
"""

import base64
import json
import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from jsonschema import Draft202012Validator

Check = Callable[[str, Any], None]  # the name of a schema, a value
Request = tuple[str, dict[str, Any], int]  # a path, fields, the status that must come

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
TEXTS: tuple[tuple[dict[str, Any], int], ...] = (
    ({"prompt": "The river"}, 200),
    ({"prompt": ["The river", "A penny"], "n": 2}, 200),
    ({"prompt": [5, 6, 7], "logprobs": 3}, 200),
    ({"prompt": [[5, 6], [7]], "logprobs": 0, "stop": ["e", "\n"]}, 200),
    ({"prompt": "The river", "echo": True, "max_tokens": 1}, 200),
    ({"prompt": "ночь 🌙", "logprobs": 5, "n": 3, "seed": 7}, 200),
    ({"prompt": "The river", "best_of": 2, "n": 2, "logit_bias": {"100": -100}, "user": "someone"}, 200),
    ({"prompt": ""}, 400),
    ({}, 400),
    ({"prompt": "x " * 20000}, 400),
    ({"prompt": "The river", "logprobs": 9}, 400),
    ({"prompt": "The river", "suffix": "sea"}, 400),
    ({"prompt": "The river", "echo": True, "logprobs": 1}, 400),
    ({"prompt": "The river", "model": "davinci-002"}, 404),
)
VECTORS: tuple[tuple[dict[str, Any], int], ...] = (
    ({"input": "The river"}, 200),
    ({"input": ["The river", "A penny", "ночь 🌙"]}, 200),
    ({"input": [5, 6, 7], "encoding_format": "float"}, 200),
    ({"input": [[5, 6], [7]], "encoding_format": "base64"}, 200),
    ({"input": ""}, 400),
    ({"input": []}, 400),
    ({"input": "x " * 20000}, 400),
    ({"input": "The river", "dimensions": 3}, 400),
    ({"input": "The river", "encoding_format": "int8"}, 400),
    ({"input": "The river", "model": "text-embedding-3-small"}, 404),
)
MODELS = (("", 200), ("/harrow", 200), ("/nvidia/nemotron-mini-4b-instruct", 200), ("/gpt-4o", 404), ("/", 404))
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
MODEL = {
    "type": "object",
    "properties": {"id": TEXT, "object": {"const": "model"}, "created": INDEX, "owned_by": TEXT},
    "required": ["id", "object", "created", "owned_by"],
}
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
    "CreateCompletionResponse": part(
        **{**HEAD, "id": {"type": "string", "pattern": "^cmpl-"}},
        object={"const": "text_completion"},
        choices={
            "type": "array",
            "items": part(
                text=TEXT,
                index=INDEX,
                logprobs={
                    "anyOf": [
                        {"type": "null"},
                        part(
                            tokens={"type": "array", "items": TEXT},
                            token_logprobs={"type": "array", "items": {"type": "number", "maximum": 0}},
                            top_logprobs={"type": "array", "items": {"additionalProperties": {"type": "number"}}},
                            text_offset={"type": "array", "items": INDEX},
                        ),
                    ]
                },
                finish_reason={"enum": ["stop", "length"]},
            ),
        },
        usage_={**USAGE, "type": "object"},
    ),
    "CreateEmbeddingResponse": part(
        object={"const": "list"},
        data={
            "type": "array",
            "minItems": 1,
            "items": part(
                object={"const": "embedding"},
                index=INDEX,
                embedding={"type": "array", "minItems": 1, "items": {"type": "number", "minimum": -1, "maximum": 1}},
            ),
        },
        model=TEXT,
        usage=part(prompt_tokens=INDEX, total_tokens=INDEX),
    ),
    "ListModelsResponse": part(object={"const": "list"}, data={"type": "array", "minItems": 1, "items": MODEL}),
    "Model": MODEL,
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


def ask(client: httpx.Client, request: Request, check: Check) -> Counter[str]:
    """Send one request and check all that comes; how many values of each kind were checked."""
    path, fields, status = request
    if path.startswith("/v1/models"):
        answer = client.get(path)
    else:
        answer = client.post(path, json={"model": "harrow", **fields})
    assert answer.status_code == status, (request, answer.text)
    if status != 200:
        check("ErrorResponse", answer.json())
        return Counter(errors=1)
    if path == "/v1/chat/completions":
        return check_chat(answer, fields, check)
    if path == "/v1/completions":
        return check_text(answer, fields, check)
    if path == "/v1/embeddings":
        return check_vectors(answer, fields, check)
    check("ListModelsResponse" if path == "/v1/models" else "Model", answer.json())
    return Counter(models=1)


def chunks_of(answer: httpx.Response) -> list[dict[str, Any]]:
    *events, last = answer.text.removesuffix("\n\n").split("\n\n")
    assert last == "data: [DONE]"
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    return chunks


def check_ends(chunks: list[dict[str, Any]], num_choices: int) -> None:
    ends = [choice["index"] for chunk in chunks for choice in chunk["choices"] if choice["finish_reason"]]
    assert sorted(ends) == list(range(num_choices))


def check_chat(answer: httpx.Response, fields: dict[str, Any], check: Check) -> Counter[str]:
    if not fields.get("stream"):
        check("CreateChatCompletionResponse", answer.json())
        assert len(answer.json()["choices"]) == fields.get("n", 1)
        return Counter(answers=1)
    chunks = chunks_of(answer)
    for chunk in chunks:
        check("CreateChatCompletionStreamResponse", chunk)
    check_ends(chunks, fields.get("n", 1))
    return Counter(chunks=len(chunks))


def check_text(answer: httpx.Response, fields: dict[str, Any], check: Check) -> Counter[str]:
    """The document has one schema for both, in which a piece before the last would have to name its end: they hold
    null at OpenAI, too, as does `usage` before the last piece.
    """
    is_list = isinstance(fields["prompt"], list) and not isinstance(fields["prompt"][0], int)
    num_choices = (len(fields["prompt"]) if is_list else 1) * fields.get("n", 1)
    if not fields.get("stream"):
        check("CreateCompletionResponse", answer.json())
        assert len(answer.json()["choices"]) == num_choices
        return Counter(answers=1)
    chunks = chunks_of(answer)
    check_ends(chunks, num_choices)
    for chunk in chunks:
        if "usage" in chunk and chunk["usage"] is None:
            del chunk["usage"]
        for choice in chunk["choices"]:
            choice["finish_reason"] = choice["finish_reason"] or "stop"
        check("CreateCompletionResponse", chunk)
    return Counter(chunks=len(chunks))


def check_vectors(answer: httpx.Response, fields: dict[str, Any], check: Check) -> Counter[str]:
    """Packed vectors, of which the document does not tell, are unpacked first."""
    found = answer.json()
    for one in found["data"] if fields.get("encoding_format") == "base64" else ():
        one["embedding"] = np.frombuffer(base64.b64decode(one["embedding"]), "<f4").tolist()
    check("CreateEmbeddingResponse", found)
    assert [one["index"] for one in found["data"]] == list(range(len(found["data"])))
    return Counter(vectors=len(found["data"]))


def chat(number: int) -> Request:
    """Two of three are good, half of them streams."""
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
    return "/v1/chat/completions", {"messages": ASKED, "max_tokens": 24, **fields}, status


def text(number: int) -> Request:
    """Every second round is streamed, every fourth with the usage."""
    fields, status = TEXTS[number % len(TEXTS)]
    turn = number // len(TEXTS)
    streamed = {"stream": True, "stream_options": {"include_usage": turn % 4 == 1}} if turn % 2 else {}
    return "/v1/completions", {"max_tokens": 12, "temperature": 0.7, **fields, **streamed}, status


def vectors(number: int) -> Request:
    fields, status = VECTORS[number % len(VECTORS)]
    return "/v1/embeddings", fields, status


def mixed(num_chats: int, num_texts: int, num_vectors: int, num_models: int) -> list[Request]:
    models = [(f"/v1/models{name}", {}, status) for name, status in MODELS]
    return [
        *map(chat, range(num_chats)),
        *map(text, range(num_texts)),
        *map(vectors, range(num_vectors)),
        *(models[number % len(models)] for number in range(num_models)),
    ]


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
    requests = [request for number, request in enumerate(mixed(60, 28, 10, 5)) if number % 3 == 0 or number % 6 == 2]
    checked = sum((ask(client, request, check_ours) for request in requests), Counter())
    assert checked.total() > len(requests)
    assert set(checked) == {"answers", "chunks", "vectors", "models", "errors"}


@pytest.mark.clients
@pytest.mark.timeout(1800)
def test_openais(client: httpx.Client, check_openais: Check) -> None:
    check_border(client, check_openais)
    requests = mixed(190, 56, 33, 15)
    checked = sum((ask(client, request, check_openais) for request in requests), Counter(errors=6))
    print(f"{len(requests) + 6} requests: {dict(checked)}")
    assert len(requests) + 6 == 300
    assert checked.total() > len(requests)  # how many pieces a stream has is a matter of time
