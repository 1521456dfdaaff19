"""Every mistake that a user can make gets one sentence that says how to mend it; nobody sees a traceback."""

import io
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from understudy.cli import main

USER = {"role": "user", "content": "Hi"}
TOOL = {"type": "function", "function": {"name": "open_gate"}}

Arguments = Callable[[Path, Path], list[object]]


def written(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def damaged(model: Path, place: Path, *, keep: int | None = None, head: bytes = b"") -> Path:
    data = model.read_bytes()
    return written(place / "bad.gguf", head + data[len(head) : keep])


def world(place: Path, **files: str) -> Path:
    parts = {"world": '{"id": "w", "name": "W"}', "characters": '[{"name": "Ada"}]', "tools": "[]", **files}
    for name, text in parts.items():
        if text:
            (place / f"{name}.json").write_text(text)
    return place


def card(place: Path, content: bytes | str) -> list[object]:
    return ["chat", "--say", "Hi", "--card", written(place / "card.json", content)]


def talk(*more: object) -> Arguments:
    return lambda model, place: ["chat", "--model", model, "--say", "Hi", *more]


COMMANDS: list[tuple[str, Arguments, str]] = [
    # the command line itself
    ("unknown verb", lambda m, p: ["sing"], "sing"),
    ("unknown option", lambda m, p: ["chat", "--loud"], "--loud"),
    ("option without value", lambda m, p: ["chat", "--seed"], "--seed"),
    ("seed is no number", lambda m, p: ["chat", "--seed", "many"], "'--seed'"),
    ("no tokens", lambda m, p: ["chat", "--max-tokens", "0"], "'--max-tokens'"),
    ("stray word", lambda m, p: ["chat", "hello"], "hello"),
    ("port is no number", lambda m, p: ["serve", "--port", "http"], "'--port'"),
    ("port too high", lambda m, p: ["serve", "--port", "70000"], "65535"),
    # model files
    ("no such model", lambda m, p: ["chat", "--say", "Hi", "--model", p / "no.gguf"], "There is no model at"),
    ("truncated model", lambda m, p: ["chat", "--say", "Hi", "--model", damaged(m, p, keep=5000)], "bad.gguf"),
    ("half a header", lambda m, p: ["chat", "--say", "Hi", "--model", damaged(m, p, keep=10)], "bad.gguf"),
    ("foreign file", lambda m, p: ["chat", "--say", "Hi", "--model", damaged(m, p, head=b"PK\3\4")], "GGUF"),
    ("empty file", lambda m, p: ["doctor", "--model", written(p / "bad.gguf", b"")], "bad.gguf"),
    ("folder without a model", lambda m, p: ["doctor", "--model", p], "no config.json"),
    (
        "another architecture",
        lambda m, p: ["doctor", "--model", written(p / "config.json", '{"model_type": "llama"}').parent],
        "'llama'",
    ),
    ("one file of a folder", lambda m, p: ["doctor", "--model", p / "model.safetensors"], "give the folder"),
    # characters and worlds
    ("nobody of this name", talk("--card", "gandalf"), "Choose one of"),
    ("several of this name", lambda m, p: ["chat", "--say", "Hi", "--card", "s"], "may be"),
    ("card is no JSON", lambda m, p: card(p, "{name: Ada}"), "no valid JSON"),
    ("card is a picture", lambda m, p: card(p, b"\x89PNG\r\n\x1a\n"), "truncated PNG"),
    ("card is a list", lambda m, p: card(p, "[]"), "must be a JSON object"),
    ("card has no name", lambda m, p: card(p, "{}"), "has no name"),
    ("card of the future", lambda m, p: card(p, '{"spec": "chara_card_v9", "data": {}}'), "chara_card_v9"),
    ("card nested without end", lambda m, p: card(p, "[" * 100_000), "no valid JSON"),
    ("no such world", lambda m, p: ["chat", "--say", "Hi", "--world", p / "nowhere"], "There is no world folder"),
    ("world without people", lambda m, p: ["chat", "--world", world(p, characters="[]")], "has no characters"),
    ("world without a file", lambda m, p: ["chat", "--world", world(p, tools="")], "tools.json is missing"),
    ("world is broken", lambda m, p: ["chat", "--world", world(p, world="{")], "world.json is no valid JSON"),
    # what is said
    ("too hot", talk("--temperature", "3"), "temperature must be from 0 to 2"),
    ("no temperature at all", talk("--temperature", "nan"), "temperature must be from 0 to 2"),
    ("endless seed", talk("--seed", "9" * 30), "seed must be"),
    ("nothing said", lambda m, p: ["chat", "--model", m, "--say", " "], "--say is empty"),
    ("too much said", lambda m, p: ["chat", "--model", m, "--say", "x" * 5000], "maximum context length"),
    ("half a character said", lambda m, p: ["chat", "--model", m, "--say", "\udc80"], "surrogate"),
    # serving
    ("open to all without a key", lambda m, p: ["serve", "--model", m, "--host", "0.0.0.0"], "UNDERSTUDY_API_KEY"),
    ("no such host", lambda m, p: ["serve", "--model", m, "--host", "no.host.invalid"], "There is no address"),
    ("empty name", lambda m, p: ["serve", "--model", m, "--name", " "], "name must be"),
    # training
    ("no such recipe", lambda m, p: ["train", p / "no.toml"], "no.toml"),
]


@pytest.mark.parametrize(("arguments", "fragment"), [c[1:] for c in COMMANDS], ids=[c[0] for c in COMMANDS])
def test_command_line(
    arguments: Arguments,
    fragment: str,
    model_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("UNDERSTUDY_API_KEY", raising=False)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments(model_file, tmp_path)])
    out, err = capsys.readouterr()
    assert end.value.code == 2
    assert fragment in err
    assert "Traceback" not in out + err


def test_a_port_in_use(model_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit) as end:
            main(["serve", "--model", str(model_file), "--port", str(port)])
    assert end.value.code == 2
    assert f"Port {port} of 127.0.0.1 is in use; choose another with --port" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "typed", "code", "fragment"),
    [
        (["chat", "--model", "none.gguf", "--say", "Hi"], "", 2, "There is no model at none.gguf"),
        (["chat", "--model", "MODEL", "--max-tokens", "2"], "/load none.json\n/save no/such/x\n", 0, "Cannot save"),
        (["chat", "--model", "MODEL", "--max-tokens", "2", "--card", "hettie"], "\udcff\n", 0, "Hettie"),
    ],
    ids=["no model", "no save", "no UTF-8"],
)
def test_as_a_process(
    arguments: list[str], typed: str, code: int, fragment: str, model_file: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "understudy.cli", *(a.replace("MODEL", str(model_file)) for a in arguments)]
    source = str(Path(__file__).parents[2] / "src")
    run = subprocess.run(
        command,
        input=typed.encode(errors="surrogateescape"),
        capture_output=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": source},
        timeout=60,
        check=False,
    )
    output = (run.stdout + run.stderr).decode()
    assert run.returncode == code, output
    assert fragment in output
    assert "Traceback" not in output


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "harrow", "messages": [USER], "max_tokens": 2, **fields}


def said(*messages: object) -> dict[str, Any]:
    return chat(messages=list(messages))


def tool(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def schema(asked: dict[str, Any]) -> dict[str, Any]:
    return chat(response_format={"type": "json_schema", "json_schema": asked})


FIELDS: list[tuple[str, dict[str, Any], str | None, str]] = [
    ("no model", {"messages": [USER]}, "model", "model is missing"),
    ("model is a number", chat(model=4), "model", "must be a valid string, got 4"),
    ("no messages", {"model": "harrow"}, "messages", "messages is missing"),
    ("empty messages", said(), "messages", "at least 1 item"),
    ("messages is a text", chat(messages="Hi"), "messages", "must be a valid list"),
    ("message is a text", said("Hi"), "messages[0]", "dictionary"),
    ("message is null", said(None), "messages[0]", "dictionary"),
    ("no role", said({"content": "Hi"}), "messages[0].role", "role is missing"),
    ("unknown role", said(USER, {"role": "narrator", "content": "x"}), "messages[1].role", "'system'"),
    ("no content", said({"role": "user"}), "messages[0].content", "needs a text"),
    ("content is a number", said({"role": "user", "content": 5}), "messages[0].content", "got 5"),
    (
        "a picture",
        said({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}),
        "messages[0].content",
        "must be a text, or parts",
    ),
    ("part without text", said({"role": "user", "content": [{"type": "text"}]}), "messages[0].content", "parts"),
    (
        "calls of the player",
        said({**USER, "tool_calls": [{"function": {"name": "x"}}]}),
        "messages[0].tool_calls",
        "assistant",
    ),
    (
        "call without name",
        said({"role": "assistant", "tool_calls": [{"function": {}}]}),
        "messages[0].tool_calls[0].function.name",
        "is missing",
    ),
    ("too hot", chat(temperature=2.5), "temperature", "from 0 to 2, got 2.5"),
    ("temperature is a text", chat(temperature="hot"), "temperature", "valid number"),
    ("temperature is true", chat(temperature=True), "temperature", "valid number"),
    ("top_p too large", chat(top_p=1.1), "top_p", "from 0 to 1"),
    ("top_k negative", chat(top_k=-5), "top_k", "from 0"),
    ("min_p negative", chat(min_p=-0.1), "min_p", "from 0 to 1"),
    ("no repetition penalty", chat(repetition_penalty=0), "repetition_penalty", "above 0"),
    ("frequency penalty", chat(frequency_penalty=3), "frequency_penalty", "from -2 to 2"),
    ("presence penalty", chat(presence_penalty=-3), "presence_penalty", "from -2 to 2"),
    ("no tokens", chat(max_tokens=0), "max_tokens", "greater than or equal to 1"),
    ("no completion tokens", chat(max_completion_tokens=0), "max_completion_tokens", "equal to 1"),
    ("half a token", chat(max_tokens=1.5), "max_tokens", "valid integer"),
    ("no choices", chat(n=0), "n", "greater than or equal to 1"),
    ("too many choices", chat(n=9), "n", "less than or equal to 8"),
    ("endless seed", chat(seed=10**30), "seed", "64 bits"),
    ("empty stop", chat(stop=[""]), "stop", "none of them empty"),
    ("too many stops", chat(stop=["x"] * 17), "stop", "at most 16"),
    ("stop is a number", chat(stop=3), "stop", "a text or a list of texts"),
    ("bias of a word", chat(logit_bias={"word": 1}), "logit_bias", "token ids"),
    ("bias too large", chat(logit_bias={"20": 101}), "logit_bias", "from -100 to 100"),
    ("bias of no token", chat(logit_bias={"999999": 1}), "logit_bias", "token ids must be from 0"),
    ("stream is a text", chat(stream="yes"), "stream", "valid boolean"),
    ("options without a stream", chat(stream_options={"include_usage": True}), "stream_options", '"stream": true'),
    ("options are a text", chat(stream=True, stream_options="usage"), "stream_options", "dictionary"),
    ("documents are a text", chat(documents="Stew."), "documents", "valid list"),
    ("document without text", chat(documents=[{"title": "Stew"}]), "documents[0].text", "is missing"),
    ("tools are an object", chat(tools=TOOL), "tools", "valid list"),
    ("tool without a name", chat(tools=[{"type": "function", "function": {}}]), "tools[0].function.name", "missing"),
    ("tool with a bad name", chat(tools=[{"function": {"name": "a b"}}]), "tools[0].function.name", "pattern"),
    ("tool of another type", chat(tools=[{**TOOL, "type": "web"}]), "tools[0].type", "'function'"),
    ("tool twice", chat(tools=[TOOL, TOOL]), "tools", "twice"),
    ("forced tool without tools", chat(tool_choice="required"), "tool_choice", "there are no tools"),
    (
        "a tool that is not there",
        chat(tools=[TOOL], tool_choice={"function": {"name": "fly"}}),
        "tool_choice",
        "no tool is named 'fly'",
    ),
    ("unknown tool choice", chat(tools=[TOOL], tool_choice="maybe"), "tool_choice", '"required"'),
    ("choice of a custom tool", chat(tools=[TOOL], tool_choice={"type": "custom"}), "tool_choice", '"required"'),
    (
        "a keyword of a schema",
        chat(tools=[TOOL, tool("b", {"properties": {"x": {"not": {}}}})]),
        "tools[1].function.parameters",
        "/properties/x: the keyword 'not'",
    ),
    (
        "a pattern that is none",
        chat(tools=[TOOL, tool("b", {"properties": {"x": {"type": "string", "pattern": "(?=a)b"}}})]),
        "tools[1].function.parameters",
        "look-around",
    ),
    ("schema without a name", schema({"schema": {}}), "response_format.json_schema.name", "is missing"),
    (
        "no schema",
        chat(response_format={"type": "json_schema"}),
        "response_format.json_schema",
        "json_schema is missing",
    ),
    (
        "schema is a list",
        schema({"name": "x", "schema": []}),
        "response_format.json_schema.schema",
        "dictionary",
    ),
    (
        "schema that is not held",
        schema({"name": "x", "schema": {"uniqueItems": True}}),
        "response_format.json_schema.schema",
        "'uniqueItems'",
    ),
    ("format is a text", chat(response_format="json"), "response_format", "dictionary"),
    ("unknown format", chat(response_format={"type": "yaml"}), "response_format.type", "'json_schema'"),
    ("guided_json is a list", chat(guided_json=[]), "guided_json", "must be an object"),
    ("guided_json is no JSON", chat(guided_json="{"), "guided_json", "no JSON"),
    ("guided_choice is empty", chat(guided_choice=[]), "guided_choice", "1 to 1024 texts"),
    ("guided_regex is none", chat(guided_regex="a("), "guided_regex", "cannot be held"),
    ("guided_grammar is no GBNF", chat(guided_grammar="root ::= ("), "guided_grammar", "no GBNF"),
    ("guided_grammar is no Lark", chat(guided_grammar="start: nobody"), "guided_grammar", "nobody"),
    ("nvext", chat(nvext={"guided_json": {"not": {}}}), "nvext.guided_json", "'not'"),
    ("other white space", chat(guided_whitespace_pattern=" "), "guided_whitespace_pattern", "not yet supported"),
    ("two forms", chat(guided_json={}, guided_regex="a"), "guided_regex", "so does guided_json"),
    ("two places", chat(guided_json={}, nvext={"guided_json": {}}), "nvext.guided_json", "so does guided_json"),
    ("form and tools", chat(guided_regex="a", tools=[TOOL]), "guided_regex", "cannot be combined"),
    (
        "form and forced tool",
        chat(response_format={"type": "json_object"}, tools=[TOOL], tool_choice="required"),
        "tool_choice",
        "wants a call, and response_format a form",
    ),
    ("nvext is a list", chat(nvext=[1]), "nvext", "dictionary"),
    ("a result without a call", said(USER, {"role": "tool", "content": "1"}), "messages[1]", "no call"),
    ("top_logprobs alone", chat(top_logprobs=3), "top_logprobs", '"logprobs": true'),
    ("too many top_logprobs", chat(logprobs=True, top_logprobs=21), "top_logprobs", "less than or equal to 20"),
    ("old functions", chat(functions=[{"name": "f"}]), "functions", "not yet supported"),
    ("sound wanted", chat(modalities=["audio"]), "modalities", '["text"]'),
    ("typing error", chat(max_token=5), "max_token", "did you mean 'max_tokens'?"),
    ("half a surrogate pair", said({"role": "user", "content": "\ud800"}), None, "surrogate"),
    ("half a pair in a key", chat(**{"\udfff": 1}), None, "surrogate"),
    ("too long", said({"role": "user", "content": "x" * 5000}), "messages", "maximum context length is 4096 tokens"),
    (
        "too long, streamed",
        chat(messages=[{**USER, "content": "x" * 5000}], stream=True),
        "messages",
        "maximum context",
    ),
]


@pytest.mark.parametrize(("fields", "param", "fragment"), [f[1:] for f in FIELDS], ids=[f[0] for f in FIELDS])
def test_fields(server: str, fields: dict[str, Any], param: str | None, fragment: str) -> None:
    data = json.dumps(fields).encode()
    response = httpx.post(f"{server}/chat/completions", content=data, headers={"content-type": "application/json"})
    error = response.json()["error"]
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/json"
    assert error.keys() == {"message", "type", "param", "code"}
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert fragment in error["message"]
    assert error["code"] is None or isinstance(error["code"], str)


BODIES: list[tuple[str, bytes, str, int, str]] = [
    ("empty", b"", "application/json", 400, "no valid JSON"),
    ("no JSON", b"{model: harrow}", "application/json", 400, "no valid JSON"),
    ("a list", b"[]", "application/json", 400, "must be a JSON object"),
    ("a text", b'"Hi"', "application/json", 400, "must be a JSON object"),
    ("null", b"null", "application/json", 400, "must be a JSON object"),
    ("NaN", b'{"temperature": NaN}', "application/json", 400, "NaN is no JSON number"),
    ("infinity", b'{"temperature": -Infinity}', "application/json", 400, "no JSON number"),
    ("a number without end", b'{"temperature": 1e999}', "application/json", 400, "too large"),
    ("digits without end", b'{"seed": ' + b"9" * 10_000 + b"}", "application/json", 400, "no valid JSON"),
    ("nested without end", b"[" * 100_000, "application/json", 400, "nested deeper"),
    ("nested too deep", b'{"x":' * 80 + b"1" + b"}" * 80, "application/json", 400, "nested deeper than 64 levels"),
    ("no UTF-8", b'{"model": "\xff"}', "application/json", 400, "no UTF-8 text"),
    ("UTF-16", '{"model": "harrow"}'.encode("utf-16"), "application/json", 400, "no UTF-8 text"),
    ("too large", b'{"x": "' + b"y" * (4 << 20) + b'"}', "application/json", 413, "larger than 4 MiB"),
    ("a form", b"model=harrow", "application/x-www-form-urlencoded", 415, "Content-Type: application/json"),
    ("plain text", b"{}", "text/plain", 415, "Content-Type: application/json"),
    ("no type", b"{}", "", 415, "Content-Type: application/json"),
]


@pytest.mark.parametrize(("data", "kind", "status", "fragment"), [b[1:] for b in BODIES], ids=[b[0] for b in BODIES])
def test_bodies(server: str, data: bytes, kind: str, status: int, fragment: str) -> None:
    headers = {"content-type": kind} if kind else {}
    response = httpx.post(f"{server}/chat/completions", content=data, headers=headers)
    assert response.status_code == status
    assert fragment in response.json()["error"]["message"]


def test_after_all_that_it_still_answers(server: str) -> None:
    response = httpx.post(f"{server}/chat/completions", json=chat(), timeout=60)
    assert response.status_code == 200
