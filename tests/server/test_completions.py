from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from openai import AsyncOpenAI

if TYPE_CHECKING:
    from conftest import Stage

    Events = Callable[[str], list[dict[str, Any]]]

PATH = "/v1/completions"


def ask(**fields: Any) -> dict[str, Any]:
    return {"model": "harrow", "prompt": "The inn is", "seed": 1, **fields}


async def test_a_whole_answer(tiny: httpx.AsyncClient) -> None:
    response = await tiny.post(PATH, json=ask(max_tokens=7))
    answer = response.json()
    assert response.status_code == 200
    assert (answer["object"], answer["model"]) == ("text_completion", "harrow")
    assert answer["id"].startswith("cmpl-")
    (choice,) = answer["choices"]
    assert choice.keys() == {"text", "index", "logprobs", "finish_reason"}
    assert (choice["index"], choice["logprobs"], choice["finish_reason"]) == (0, None, "length")
    assert answer["usage"] == {"prompt_tokens": 10, "completion_tokens": 7, "total_tokens": 17}
    assert (await tiny.post(PATH, json=ask())).json()["usage"]["completion_tokens"] == 16


async def test_text_and_its_token_ids_are_one_prompt(tiny: httpx.AsyncClient) -> None:
    ids = (await tiny.post("/tokenize", json={"prompt": "The inn is"})).json()["tokens"]
    by_text = (await tiny.post(PATH, json=ask())).json()
    by_ids = (await tiny.post(PATH, json=ask(prompt=ids))).json()
    assert by_text["choices"] == by_ids["choices"]
    both = (await tiny.post(PATH, json=ask(prompt=[ids, ids], n=2))).json()
    assert [choice["index"] for choice in both["choices"]] == [0, 1, 2, 3]
    texts = [choice["text"] for choice in both["choices"]]
    assert texts[0] == texts[2] == by_text["choices"][0]["text"]
    assert texts[1] == texts[3] != texts[0]
    assert both["usage"]["prompt_tokens"] == 20


async def test_markers_in_a_text_are_plain_characters(tiny: httpx.AsyncClient) -> None:
    answer = (await tiny.post(PATH, json=ask(prompt="<extra_id_1>"))).json()
    assert answer["usage"]["prompt_tokens"] == len("<extra_id_1>")


async def test_streamed_and_whole_agree(tiny: httpx.AsyncClient, events: "Events") -> None:
    fields: dict[str, Any] = {"n": 2, "logprobs": 2, "max_tokens": 12}
    whole = (await tiny.post(PATH, json=ask(**fields))).json()
    chunks = events(
        (await tiny.post(PATH, json=ask(stream=True, stream_options={"include_usage": True}, **fields))).text
    )
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == whole["usage"]
    assert all(chunk["usage"] is None and chunk["object"] == "text_completion" for chunk in chunks[:-1])
    for choice in whole["choices"]:
        own = [c["choices"][0] for c in chunks[:-1] if c["choices"][0]["index"] == choice["index"]]
        assert "".join(c["text"] for c in own) == choice["text"]
        assert [c["finish_reason"] for c in own if c["finish_reason"]] == [choice["finish_reason"]]
        for name, values in choice["logprobs"].items():
            assert [v for c in own for v in c["logprobs"][name]] == values


async def test_logprobs_in_the_legacy_form(stage: "Stage", client: httpx.AsyncClient) -> None:
    stage.script = "Yes."
    messages = [{"role": "user", "content": "Hi"}]
    ids = (await client.post("/tokenize", json={"messages": messages})).json()["tokens"]
    answer = (await client.post(PATH, json=ask(prompt=ids, logprobs=1))).json()
    (choice,) = answer["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("Yes.", "stop")
    logprobs = choice["logprobs"]
    assert (logprobs["tokens"], logprobs["text_offset"]) == (["Y", "e", "s", "."], [0, 1, 2, 3])
    assert [list(top) for top in logprobs["top_logprobs"]] == [["Y"], ["e"], ["s"], ["."]]
    assert all(-0.01 < value <= 0 for value in logprobs["token_logprobs"])


async def test_echo(tiny: httpx.AsyncClient) -> None:
    plain = (await tiny.post(PATH, json=ask())).json()["choices"][0]["text"]
    echoed = (await tiny.post(PATH, json=ask(echo=True))).json()["choices"][0]["text"]
    assert echoed == "The inn is" + plain


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [1 << 40]}, "prompt"),
        ({"prompt": ["a"] * 33}, "prompt"),
        ({"prompt": ["a"] * 5, "n": 7}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"logprobs": 6}, "logprobs"),
        ({"echo": True, "logprobs": 1}, "echo"),
        ({"best_of": 3}, "best_of"),
        ({"suffix": "x"}, "suffix"),
        ({"guided_json": {"type": "object"}}, "guided_json"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"temperature": -1}, "temperature"),
        ({"model": "gpt-4"}, "model"),
    ],
)
async def test_faults(client: httpx.AsyncClient, fields: dict[str, Any], param: str) -> None:
    response = await client.post(PATH, json=ask(**fields))
    assert response.status_code == (404 if param == "model" else 400)
    assert response.json()["error"]["param"] == param


async def test_a_prompt_longer_than_the_context(client: httpx.AsyncClient) -> None:
    response = await client.post(PATH, json=ask(prompt="a" * 4097, stream=True))
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"


async def test_openais_client_reads_it(tiny: httpx.AsyncClient) -> None:
    client = AsyncOpenAI(base_url="http://test/v1", api_key="none", http_client=tiny)
    answer = await client.completions.create(model="harrow", prompt="The inn", seed=3, max_tokens=5)
    stream = await client.completions.create(model="harrow", prompt="The inn", seed=3, max_tokens=5, stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == answer.choices[0].text
