"""The clients that people use, unchanged."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

MESSAGES = [{"role": "user", "content": "Good evening!"}]
PUBLISHED = "nvidia/nemotron-mini-4b-instruct"


@pytest.fixture(scope="module")
def client(server_with_key: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server_with_key, api_key="secret", max_retries=0, timeout=60) as client:
        yield client


def test_openai_whole(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="harrow", messages=MESSAGES, max_tokens=6, seed=1)  # type: ignore[arg-type]
    assert answer.choices[0].message.role == "assistant"
    assert isinstance(answer.choices[0].message.content, str)
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer._request_id is not None


def test_openai_stream_says_what_the_whole_says(client: openai.OpenAI) -> None:
    fields = {"model": PUBLISHED, "messages": MESSAGES, "max_tokens": 12, "seed": 5, "n": 2}
    whole = client.chat.completions.create(**fields)  # type: ignore[call-overload]
    stream = client.chat.completions.create(**fields, stream=True, stream_options={"include_usage": True})  # type: ignore[call-overload]
    chunks = list(stream)
    for n, choice in enumerate(whole.choices):
        parts = [c for chunk in chunks for c in chunk.choices if c.index == n]
        assert "".join(part.delta.content or "" for part in parts) == choice.message.content
        assert parts[-1].finish_reason == choice.finish_reason
    assert chunks[-1].usage == whole.usage
    assert {chunk.model for chunk in chunks} == {PUBLISHED}


def test_openai_extra_fields(client: openai.OpenAI) -> None:
    extra = {"top_k": 1, "repetition_penalty": 1.2, "min_p": 0.1, "documents": ["Stew is a penny."]}
    answer = client.chat.completions.create(model="harrow", messages=MESSAGES, max_tokens=2, extra_body=extra)  # type: ignore[arg-type]
    plain = client.chat.completions.create(model="harrow", messages=MESSAGES, max_tokens=2)  # type: ignore[arg-type]
    assert answer.usage is not None
    assert plain.usage is not None
    assert answer.usage.prompt_tokens > plain.usage.prompt_tokens


def test_openai_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["harrow"]
    assert client.models.retrieve(PUBLISHED).id == PUBLISHED


def test_openai_errors(client: openai.OpenAI, server_with_key: str) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES)  # type: ignore[arg-type]
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError, match="maximum context length is 4096 tokens") as long:
        client.chat.completions.create(model="harrow", messages=[{"role": "user", "content": "x" * 5000}], stream=True)
    assert long.value.code == "context_length_exceeded"
    with (
        openai.OpenAI(base_url=server_with_key, api_key="wrong") as other,
        pytest.raises(openai.AuthenticationError) as stranger,
    ):
        other.models.list()
    assert stranger.value.code == "invalid_api_key"


async def test_openai_async_stream_left_early(server_with_key: str) -> None:
    async with openai.AsyncOpenAI(base_url=server_with_key, api_key="secret") as client:
        stream = await client.chat.completions.create(model="harrow", messages=MESSAGES, stream=True)  # type: ignore[arg-type]
        async for chunk in stream:
            assert chunk.choices[0].delta.role == "assistant"
            break
        await stream.close()


def curl(*arguments: str) -> str:
    run = subprocess.run(["curl", "-sS", *arguments], capture_output=True, text=True, timeout=60, check=True)
    return run.stdout


def test_curl_as_on_the_models_page(server_with_key: str) -> None:
    body = {
        "model": PUBLISHED,
        "messages": [{"role": "user", "content": "Write a limerick."}],
        "temperature": 0.2,
        "top_p": 0.7,
        "max_tokens": 16,
        "stream": True,
    }
    url, key = f"{server_with_key}/chat/completions", "Authorization: Bearer secret"
    out = curl("-N", url, "-H", "Content-Type: application/json", "-H", key, "-d", json.dumps(body))
    lines = [line for line in out.split("\n") if line]
    assert lines[-1] == "data: [DONE]"
    assert all(json.loads(line[6:])["object"] == "chat.completion.chunk" for line in lines[:-1])
    out = curl("-w", "\n%{http_code}", url, "-H", key, "-d", json.dumps(body))
    text, _, status = out.rpartition("\n")
    assert status == "415"
    assert "Content-Type: application/json" in json.loads(text)["error"]["message"]


def test_the_whole_programme(model_file: Path) -> None:
    """`understudy serve` as a process of its own, told to end while it answers."""
    command = [sys.executable, "-m", "understudy.cli", "serve", "--model", str(model_file), "--port", "0"]
    environment = {**os.environ, "UNDERSTUDY_API_KEY": "secret"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        ready = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/v1", ready)
        assert found, ready + process.stderr.read()
        assert "ready" in curl(f"{found[0]}/health/ready")
        client = openai.OpenAI(base_url=found[0], api_key="secret")
        stream = client.chat.completions.create(model="harrow", messages=MESSAGES, stream=True)  # type: ignore[arg-type]
        next(iter(stream))
        process.terminate()
        assert process.wait(20) in (-15, 143, 0)
        assert "Traceback" not in process.stderr.read()
        client.close()
