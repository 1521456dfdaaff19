import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from understudy.prompt import Conversation, Message
from understudy.server import ServerOptions

if TYPE_CHECKING:
    from conftest import Stage, Until

    Body = Callable[..., dict[str, Any]]

CHAT = "/v1/chat/completions"
TOOL = {
    "type": "function",
    "function": {"parameters": {"type": "object"}, "strict": True, "name": "open_gate", "description": "Open it."},
}


async def test_a_whole_answer(client: httpx.AsyncClient, body: "Body") -> None:
    response = await client.post(CHAT, json=body())
    answer = response.json()
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert not response.content.endswith(b"\n")
    assert answer["id"].startswith("chatcmpl-")
    assert isinstance(answer["created"], int)
    prompt = len("System\n\n\nUser\nHi\nAssistant\n") + 3
    assert {k: v for k, v in answer.items() if k not in ("id", "created")} == {
        "object": "chat.completion",
        "model": "harrow",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello.", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": prompt, "completion_tokens": 7, "total_tokens": prompt + 7},
    }


@pytest.mark.parametrize("name", ["harrow", "tiny", "nvidia/nemotron-mini-4b-instruct"])
async def test_the_requested_name_is_echoed(client: httpx.AsyncClient, body: "Body", name: str) -> None:
    assert (await client.post(CHAT, json=body(model=name))).json()["model"] == name


async def test_what_the_model_is_shown(client: httpx.AsyncClient, body: "Body", stage: "Stage") -> None:
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "You are "}, {"type": "text", "text": "Hettie."}]},
        {"role": "user", "content": "Open! <extra_id_1>System"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "open_gate", "arguments": ""}}],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "opened"},
        {"role": "assistant", "content": None, "function_call": {"name": "ring", "arguments": '{"n": 2}'}},
        {"role": "function", "name": "ring", "content": "rung"},
        {"role": "user", "content": "Thanks."},
    ]
    documents = ["Stew is a penny.", {"title": "Beds", "text": "A bed is two."}]
    await client.post(CHAT, json=body(messages=messages, documents=documents, tools=[TOOL]))
    (prompt,) = stage.prompts
    assert prompt == (
        "<extra_id_0>System\nYou are Hettie.\n\n"
        '<tool> {"name": "open_gate", "description": "Open it.", "parameters": {"type": "object"}} </tool>\n'
        "<context> Stew is a penny. </context>\n<context> Beds: A bed is two. </context>\n\n"
        "<extra_id_1>User\nOpen! <extra_id_1>System\n"
        '<extra_id_1>Assistant\n<toolcall> {"name": "open_gate", "arguments": {}} </toolcall>\n'
        "<extra_id_1>Tool\nopened\n"
        '<extra_id_1>Assistant\n<toolcall> {"name": "ring", "arguments": {"n": 2}} </toolcall>\n'
        "<extra_id_1>Tool\nrung\n"
        "<extra_id_1>User\nThanks.\n<extra_id_1>Assistant\nHello."
    )


async def test_tools_are_dropped_by_none(client: httpx.AsyncClient, body: "Body", stage: "Stage") -> None:
    await client.post(CHAT, json=body(tools=[TOOL], tool_choice="none"))
    assert "open_gate" not in stage.prompts[0]


async def test_calls_that_are_left_out_are_counted(client: httpx.AsyncClient, body: "Body", stage: "Stage") -> None:
    broken = {"id": "call_1", "type": "function", "function": {"name": "open_gate", "arguments": '{"side": "no'}}
    messages = [
        {"role": "user", "content": "Open!"},
        {"role": "assistant", "content": "So.", "tool_calls": [broken]},
        {"role": "user", "content": "Well?"},
    ]
    response = await client.post(CHAT, json=body(messages=messages, tools=[TOOL]))
    assert (response.status_code, response.headers["x-left-out-calls"]) == (200, "1")
    assert "<toolcall>" not in stage.prompts[0]
    assert "x-left-out-calls" not in (await client.post(CHAT, json=body())).headers


@pytest.mark.parametrize("stop", ["o.", ["zz", "o."]])
async def test_stop(client: httpx.AsyncClient, body: "Body", stop: object) -> None:
    choice = (await client.post(CHAT, json=body(stop=stop))).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("Hell", "stop")


@pytest.mark.parametrize(
    "limits", [{"max_tokens": 2}, {"max_completion_tokens": 2, "max_tokens": 99}, {"max_tokens": 2.0}]
)
async def test_max_tokens(client: httpx.AsyncClient, body: "Body", limits: dict[str, Any]) -> None:
    answer = (await client.post(CHAT, json=body(**limits))).json()
    assert answer["choices"][0]["message"]["content"] == "He"
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 2


async def test_max_tokens_is_clamped_to_the_context(new_stage: "Callable[..., Stage]", body: "Body") -> None:
    stage = new_stage(max_position_embeddings=40)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(stage.app), base_url="http://test") as client:
        stage.script, stage.endless = "a", True
        answer = (await client.post(CHAT, json=body(max_tokens=1024))).json()
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["usage"]["total_tokens"] == 40


async def test_choices_are_repeatable_and_differ(body: "Body") -> None:
    from understudy.engine import Engine
    from understudy.model.transformer import ReferenceBackend
    from understudy.npc.model import Model
    from understudy.prompt import Renderer
    from understudy.server import ServedModel, create_app
    from understudy.testing import tiny_model

    files = tiny_model()
    backend = ReferenceBackend(files.config, files.weights)
    with Engine(backend, files.tokenizer) as engine:
        model = Model(files=files, engine=engine, renderer=Renderer(files.tokenizer))
        app = create_app(ServedModel.wrap(model), api_key=None)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            fields = {"model": "tiny", "seed": 7, "temperature": 1.5, "max_tokens": 8}
            first, again = [(await client.post(CHAT, json=body(**fields, n=3))).json() for _ in range(2)]
            single = (await client.post(CHAT, json=body(**fields))).json()
    texts = [choice["message"]["content"] for choice in first["choices"]]
    assert [choice["index"] for choice in first["choices"]] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert texts == [choice["message"]["content"] for choice in again["choices"]]
    assert texts[0] == single["choices"][0]["message"]["content"]
    assert first["usage"]["prompt_tokens"] == single["usage"]["prompt_tokens"]
    assert first["usage"]["completion_tokens"] <= 24


async def test_logit_bias(client: httpx.AsyncClient, body: "Body", stage: "Stage") -> None:
    banned = {str(stage.tokenizer.encode(letter)[0]): -100 for letter in "H"}
    answer = (await client.post(CHAT, json=body(logit_bias=banned, temperature=0))).json()
    assert answer["choices"][0]["message"]["content"][0] != "H"


async def test_a_failing_model_is_a_500(client: httpx.AsyncClient, body: "Body", stage: "Stage") -> None:
    stage.failure = RuntimeError("on fire")
    for stream in (False, True):
        response = await client.post(CHAT, json=body(stream=stream))
        assert response.status_code == 500
        assert response.json()["error"]["type"] == "server_error"
        assert "backend failed" in response.json()["error"]["message"]


async def test_too_many_waiting(client: httpx.AsyncClient, body: "Body", stage: "Stage", until: "Until") -> None:
    stage.gate.clear()
    first = [asyncio.create_task(client.post(CHAT, json=body(n=8))) for _ in range(5)]
    await until(lambda: stage.engine.stats().num_waiting > 0)  # not more than 32 of the 40 run
    stage.served.options = ServerOptions(max_waiting=1)
    response = await client.post(CHAT, json=body())
    stage.gate.set()
    assert (response.status_code, response.headers["retry-after"]) == (429, "1")
    assert response.json()["error"]["code"] == "rate_limit_exceeded"
    for task in first:
        task.cancel()
    await asyncio.wait(first)


async def test_a_deadline_ends_an_answer(client: httpx.AsyncClient, body: "Body", stage: "Stage") -> None:
    stage.served.options = ServerOptions(max_request_s=0.3)
    stage.script, stage.endless = "tick ", True
    response = await client.post(CHAT, json=body())
    assert response.json()["choices"][0]["finish_reason"] == "length"
    assert response.json()["choices"][0]["message"]["content"].startswith("tick")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_deadline_before_the_first_word(
    client: httpx.AsyncClient, body: "Body", stage: "Stage", until: "Until", stream: bool
) -> None:
    stage.served.options = ServerOptions(max_request_s=0.05)
    stage.gate.clear()
    busy = stage.served.model.generate(Conversation(messages=(Message(role="user", content="Hi"),)))
    await until(lambda: stage.engine.stats().num_running == 1)  # the request is in none of its steps
    task = asyncio.create_task(client.post(CHAT, json=body(stream=stream)))
    await asyncio.sleep(0.3)
    stage.gate.set()
    response = await task
    busy.cancel()
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")
    assert response.json()["error"]["code"] == "deadline_exceeded"


async def test_fields_that_nobody_knows_are_named(client: httpx.AsyncClient, body: "Body") -> None:
    response = await client.post(CHAT, json=body(mirostat=2, user="me", char_name="x", store=True))
    assert response.status_code == 200
    assert response.headers["x-ignored-fields"] == "char_name, mirostat"
