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
CALL = '<toolcall> {"name": "open_gate", "arguments": {"side": "north"}} </toolcall>'
SIDE = {"type": "object", "properties": {"side": {"type": "string"}}, "required": ["side"]}
TOOLS = [{"type": "function", "function": {"name": "open_gate", "parameters": SIDE}}]


async def test_a_stream(client: httpx.AsyncClient, body: "Body", events: "Events") -> None:
    response = await client.post(CHAT, json=body(stream=True))
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    chunks = events(response.text)
    assert {(c["object"], c["id"], c["created"], c["model"]) for c in chunks} == {
        ("chat.completion.chunk", chunks[0]["id"], chunks[0]["created"], "harrow")
    }
    assert [c["choices"][0]["delta"] for c in chunks] == [
        {"role": "assistant", "content": ""},
        *({"content": letter} for letter in "Hello."),
        {},
    ]
    assert [c["choices"][0]["finish_reason"] for c in chunks] == [None] * 7 + ["stop"]
    assert not any("usage" in c for c in chunks)


async def test_a_stream_with_usage(client: httpx.AsyncClient, body: "Body", events: "Events") -> None:
    response = await client.post(CHAT, json=body(stream=True, stream_options={"include_usage": True}))
    *chunks, last = events(response.text)
    assert all(c["usage"] is None for c in chunks)
    assert last["choices"] == []
    whole = (await client.post(CHAT, json=body())).json()
    assert last["usage"] == whole["usage"]


async def test_a_stream_never_gives_half_a_character(
    client: httpx.AsyncClient, body: "Body", stage: "Stage", events: "Events"
) -> None:
    stage.script = "né 🕯\u2028."
    text = (await client.post(CHAT, json=body(stream=True))).text
    assert text.isascii()
    assert [c["choices"][0]["delta"].get("content") for c in events(text)] == [
        "", "n", "é", " 🕯", "\u2028.", None,
    ]  # fmt: skip


async def test_a_stream_of_choices(client: httpx.AsyncClient, body: "Body", events: "Events") -> None:
    chunks = [c["choices"][0] for c in events((await client.post(CHAT, json=body(stream=True, n=3))).text)]
    for index in range(3):
        own = [c for c in chunks if c["index"] == index]
        assert own[0]["delta"]["role"] == "assistant"
        assert "".join(c["delta"].get("content", "") for c in own) == "Hello."
        assert own[-1]["finish_reason"] == "stop"


async def test_a_tool_call(client: httpx.AsyncClient, body: "Body", stage: "Stage", events: "Events") -> None:
    stage.script = CALL
    choice = (await client.post(CHAT, json=body(tools=TOOLS))).json()["choices"][0]
    (call,) = choice["message"]["tool_calls"]
    assert choice["message"]["content"] is None
    assert choice["finish_reason"] == "tool_calls"
    assert call["id"].startswith("call_")
    assert call == {
        "id": call["id"],
        "type": "function",
        "function": {"name": "open_gate", "arguments": '{"side": "north"}'},
    }
    chunks = events((await client.post(CHAT, json=body(tools=TOOLS, stream=True))).text)
    role, head, *parts, end = [c["choices"][0]["delta"] for c in chunks]
    assert role == {"role": "assistant", "content": None}
    own_id = head["tool_calls"][0]["id"]
    function = {"name": "open_gate", "arguments": ""}
    assert head == {"tool_calls": [{"index": 0, "id": own_id, "type": "function", "function": function}]}
    pieces = [part["tool_calls"][0]["function"]["arguments"] for part in parts]
    assert parts == [{"tool_calls": [{"index": 0, "function": {"arguments": piece}}]} for piece in pieces]
    assert pieces[:6] == ['{"side": "', *"north"]
    assert "".join(pieces) == '{"side": "north"}'
    assert end == {}
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_words_and_two_calls(client: httpx.AsyncClient, body: "Body", stage: "Stage") -> None:
    stage.script = f"At once.\n{CALL}\n{CALL}"
    message = (await client.post(CHAT, json=body(tools=TOOLS))).json()["choices"][0]["message"]
    assert message["content"] == "At once."
    assert len({call["id"] for call in message["tool_calls"]}) == 2
    message = (await client.post(CHAT, json=body(tools=TOOLS, parallel_tool_calls=False))).json()["choices"][0][
        "message"
    ]
    assert len(message["tool_calls"]) == 1


@pytest.mark.parametrize(
    ("script", "fields", "content", "reason"),
    [
        (CALL, {"tools": TOOLS, "max_tokens": 1}, "", "length"),
        (f"So. {CALL}", {"tools": TOOLS, "max_tokens": 9}, "So.", "length"),
    ],
    ids=["cut at once", "cut before its arguments"],
)
async def test_what_is_no_call_is_words(
    client: httpx.AsyncClient,
    body: "Body",
    stage: "Stage",
    events: "Events",
    script: str,
    fields: dict[str, Any],
    content: str,
    reason: str,
) -> None:
    stage.script = script
    choice = (await client.post(CHAT, json=body(**fields))).json()["choices"][0]
    assert "tool_calls" not in choice["message"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (content, reason)
    chunks = [c["choices"][0] for c in events((await client.post(CHAT, json=body(**fields, stream=True))).text)]
    assert "".join(c["delta"].get("content", "") for c in chunks) == content
    assert not any("tool_calls" in c["delta"] for c in chunks)
    assert chunks[-1]["finish_reason"] == reason


async def test_without_functions_no_call_is_begun(client: httpx.AsyncClient, body: "Body", stage: "Stage") -> None:
    stage.script = f"So. {CALL}"  # what comes in the mark's place is chance: the script gives all else one weight
    message = (await client.post(CHAT, json=body(seed=1))).json()["choices"][0]["message"]
    assert "tool_calls" not in message
    assert message["content"].startswith("So. ") and "toolcall" not in message["content"]
    assert '{"name": "open_gate"' in message["content"]


async def test_a_call_that_is_cut_off(
    client: httpx.AsyncClient, body: "Body", stage: "Stage", events: "Events"
) -> None:
    """As at OpenAI the stream has what came of it, and tells by its reason; a whole answer has whole calls only."""
    stage.script = f"{CALL}\n{CALL}"
    line = CALL[len("<toolcall>") : -len("</toolcall>")]
    fields = body(tools=TOOLS, max_tokens=len(line) + 4 + line.index("rth"))
    choice = (await client.post(CHAT, json=fields)).json()["choices"][0]
    assert [c["function"]["arguments"] for c in choice["message"]["tool_calls"]] == ['{"side": "north"}']
    assert choice["finish_reason"] == "length"
    chunks = [c["choices"][0] for c in events((await client.post(CHAT, json=fields | {"stream": True})).text)]
    parts = [part for c in chunks for part in c["delta"].get("tool_calls", ())]
    texts = ["".join(p["function"]["arguments"] for p in parts if p["index"] == n) for n in (0, 1)]
    assert texts == ['{"side": "north"}', '{"side": "no']
    assert chunks[-1]["finish_reason"] == "length"


async def test_a_call_is_complete_with_its_arguments(client: httpx.AsyncClient, body: "Body", stage: "Stage") -> None:
    stage.script = CALL
    choice = (await client.post(CHAT, json=body(tools=TOOLS, max_tokens=CALL.index("}}") - 8))).json()["choices"][0]
    assert [c["function"]["arguments"] for c in choice["message"]["tool_calls"]] == ['{"side": "north"}']
    assert choice["finish_reason"] == "length"


@pytest.mark.parametrize(
    "script", ['<toolcall> {"name": "fly", "arguments": {}} </toolcall>', "<toolcall> open the gate </toolcall>"]
)
async def test_what_the_model_would_rather_call(
    client: httpx.AsyncClient, body: "Body", stage: "Stage", script: str
) -> None:
    """The grammar has the model name what was offered, with arguments that fit."""
    stage.script = script
    choice = (await client.post(CHAT, json=body(tools=TOOLS, seed=1, max_tokens=300))).json()["choices"][0]
    for call in choice["message"].get("tool_calls", ()):
        assert call["function"]["name"] == "open_gate"
        assert json.loads(call["function"]["arguments"]).keys() == {"side"}
    assert "tool_calls" in choice["message"] or choice["finish_reason"] == "length"


async def test_half_a_surrogate_pair_in_arguments(client: httpx.AsyncClient, body: "Body", stage: "Stage") -> None:
    stage.script = r'<toolcall> {"name": "open_gate", "arguments": {"side": "\ud83d"}} </toolcall>'
    response = await client.post(CHAT, json=body(tools=TOOLS))
    assert response.status_code == 200
    assert response.content.isascii()


async def test_a_failure_in_the_midst_of_a_stream(
    client: httpx.AsyncClient, body: "Body", stage: "Stage", events: "Events"
) -> None:
    stage.failure, stage.fails_after = RuntimeError("on fire"), 3
    response = await client.post(CHAT, json=body(stream=True))
    assert response.status_code == 200
    error = events(response.text)[-1]["error"]
    assert error["type"] == "server_error"
    assert error["object"] == "error"
    assert "on fire" in error["message"]
    assert {"param", "code"} <= error.keys()
