import base64
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from openai import AsyncOpenAI

if TYPE_CHECKING:
    from conftest import Stage

PATH = "/v1/embeddings"


def ask(**fields: Any) -> dict[str, Any]:
    return {"model": "harrow", "input": "Good evening", **fields}


async def test_both_formats_say_the_same(tiny: httpx.AsyncClient) -> None:
    plain = (await tiny.post(PATH, json=ask())).json()
    packed = (await tiny.post(PATH, json=ask(encoding_format="base64"))).json()
    vector = np.array(plain["data"][0]["embedding"], np.float32)
    assert np.array_equal(np.frombuffer(base64.b64decode(packed["data"][0]["embedding"]), "<f4"), vector)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    assert plain["usage"] == {"prompt_tokens": 12, "total_tokens": 12}
    assert (plain["object"], plain["data"][0]["object"], plain["data"][0]["index"]) == ("list", "embedding", 0)


async def test_a_batch_is_its_texts(tiny: httpx.AsyncClient) -> None:
    texts = ["Good evening", "The inn is full.", "x" * 700]
    ids = [(await tiny.post("/tokenize", json={"prompt": text})).json()["tokens"] for text in texts]
    together = (await tiny.post(PATH, json=ask(input=texts))).json()["data"]
    by_ids = (await tiny.post(PATH, json=ask(input=ids))).json()["data"]
    assert together == by_ids
    for number, text in enumerate(texts):
        (alone,) = (await tiny.post(PATH, json=ask(input=text))).json()["data"]
        np.testing.assert_allclose(alone["embedding"], together[number]["embedding"], atol=1e-6)


async def test_openais_client_reads_it(tiny: httpx.AsyncClient) -> None:
    client = AsyncOpenAI(base_url="http://test/v1", api_key="none", http_client=tiny)
    answer = await client.embeddings.create(model="harrow", input=["a", "b"])
    assert [len(item.embedding) for item in answer.data] == [len(answer.data[0].embedding)] * 2


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a"] * 257}, "input"),
        ({"input": [-1]}, "input"),
        ({"input": "a" * 4097}, "input"),
        ({"dimensions": 3}, "dimensions"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"truncate": "END"}, "truncate"),
    ],
)
async def test_faults(tiny: httpx.AsyncClient, fields: dict[str, Any], param: str) -> None:
    response = await tiny.post(PATH, json=ask(**fields))
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


async def test_a_backend_without_hidden_states_says_so(client: httpx.AsyncClient, stage: "Stage") -> None:
    response = await client.post(PATH, json=ask())
    assert response.status_code == 500
    assert "gives no hidden states" in response.json()["error"]["message"]
