import httpx
import pytest


async def test_text_there_and_back(tiny: httpx.AsyncClient) -> None:
    text = "Good evening, Grüße 🦊 <extra_id_1>"
    there = (await tiny.post("/tokenize", json={"prompt": text, "return_token_strs": True})).json()
    assert there["count"] == len(there["tokens"]) == len(there["token_strs"])
    assert there["max_model_len"] == 4096
    back = await tiny.post("/detokenize", json={"model": "harrow", "tokens": there["tokens"]})
    assert back.json() == {"prompt": text}


async def test_messages_are_the_prompt_that_chat_counts(tiny: httpx.AsyncClient) -> None:
    messages = [{"role": "system", "content": "You are Minnow."}, {"role": "user", "content": "Hi"}]
    told = (await tiny.post("/tokenize", json={"messages": messages})).json()
    chat = {"model": "harrow", "messages": messages, "max_tokens": 1}
    assert (await tiny.post("/v1/chat/completions", json=chat)).json()["usage"]["prompt_tokens"] == told["count"]
    shown = (await tiny.post("/detokenize", json={"tokens": told["tokens"]})).json()["prompt"]
    assert shown.startswith("<extra_id_0>System\nYou are Minnow.")


@pytest.mark.parametrize(
    ("path", "fields", "status", "param"),
    [
        ("/tokenize", {}, 400, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": [{"role": "user", "content": "b"}]}, 400, "prompt"),
        ("/tokenize", {"prompt": 3}, 400, "prompt"),
        ("/tokenize", {"prompt": "a", "model": "gpt-4"}, 404, "model"),
        ("/tokenize", {"messages": [{"role": "king", "content": "b"}]}, 400, "messages[0].role"),
        ("/detokenize", {}, 400, "tokens"),
        ("/detokenize", {"tokens": ["a"]}, 400, "tokens[0]"),
        ("/detokenize", {"tokens": [-1]}, 400, "tokens"),
        ("/detokenize", {"tokens": [1 << 70]}, 400, "tokens"),
    ],
)
async def test_faults(tiny: httpx.AsyncClient, path: str, fields: dict[str, object], status: int, param: str) -> None:
    response = await tiny.post(path, json=fields)
    assert (response.status_code, response.json()["error"]["param"]) == (status, param)
