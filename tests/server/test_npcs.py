import asyncio
import base64
import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from understudy.npc.card import Card
from understudy.npc.session import Session
from understudy.server import ServerOptions, create_app
from understudy.server.hosted import HostedNpc
from understudy.server.npc_house import NpcHouse
from understudy.server.problem import Problem

if TYPE_CHECKING:
    from conftest import Stage

CALL = '<toolcall> {"name": "rent_room", "arguments": {"room": "single", "nights": 2}} </toolcall>'
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
RENT_ROOM = {
    "type": "function",
    "function": {
        "name": "rent_room",
        "description": "Rent the player a bed.",
        "parameters": {"type": "object", "properties": {"room": {"type": "string"}, "nights": {"type": "integer"}}},
    },
}

# Against the guard, nobody says the same for long.
ENDLESSLY = {"line": "Hi", "stream": True, "max_tokens": 3000, "dry_multiplier": 0}


def told(text: str) -> list[dict[str, Any]]:
    """The events of a stream; each is named twice."""
    found = []
    for block in text.strip().split("\n\n"):
        name, data = block.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


async def make(client: httpx.AsyncClient, **fields: Any) -> str:
    response = await client.post("/v1/npcs", json={"character": "minnow", **fields})
    assert response.status_code == 201, response.text
    return f"/v1/npcs/{response.json()['id']}"


async def test_characters_to_choose_from(client: httpx.AsyncClient) -> None:
    listed = (await client.get("/v1/characters")).json()["data"]
    assert len(listed) == 12
    assert {"id": "minnow", "name": "Minnow", "role": "child pickpocket"}.items() <= listed[5].items()
    one = (await client.get("/v1/characters/minnow")).json()
    assert one["card"]["name"] == "Minnow"
    assert "sell_item" in [tool["function"]["name"] for tool in one["tools"]]
    assert Card.from_json(one["card"]).knowledge
    assert (await client.get("/v1/characters/nobody")).status_code == 404


async def test_a_characters_life(client: httpx.AsyncClient) -> None:
    where = await make(client, player="Mara")
    npc = (await client.get(where)).json()
    assert npc["greeting"].startswith("I was never in your pocket")
    assert (npc["player"], npc["world"], npc["history"], npc["tools"]) == ("Mara", "harrowmere", [], [])
    assert len(npc["id"]) > 30
    assert [one["id"] for one in (await client.get("/v1/npcs")).json()["data"]] == [npc["id"]]
    assert (await client.delete(where)).json() == {"id": npc["id"], "object": "npc.deleted", "deleted": True}
    for response in (await client.get(where), await client.delete(where), await client.post(f"{where}/save")):
        assert (response.status_code, response.json()["error"]["code"]) == (404, "npc_not_found")
    assert (await client.get("/v1/npcs")).json()["data"] == []


async def test_a_line_whole_and_streamed(client: httpx.AsyncClient, stage: "Stage") -> None:
    where = await make(client)
    whole = (await client.post(f"{where}/say", json={"line": "Hi", "seed": 3})).json()
    assert (whole["text"], whole["reason"], whole["finish_reason"], whole["seed"]) == ("Hello.", "answered", "stop", 3)
    assert whole["usage"]["completion_tokens"] == 7
    assert 0 < whole["timing"]["first_token_s"] <= whole["timing"]["total_s"]
    response = await client.post(f"{where}/say", json={"line": "And?", "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    *words, end = told(response.text)
    assert "".join(event["text"] for event in words) == end["text"] == "Hello."
    assert {event["type"] for event in words} == {"words"}
    history = (await client.get(where)).json()["history"]
    assert [(m["role"], m["content"]) for m in history] == [
        ("user", "Hi"),
        ("assistant", "Hello."),
        ("user", "And?"),
        ("assistant", "Hello."),
    ]
    assert "You are Minnow, child pickpocket in Harrowmere." in stage.prompts[0]


async def test_why_adds_up_and_can_be_repeated(client: httpx.AsyncClient) -> None:
    where = await make(client, tools=[{"type": "function", "function": {"name": "sell_item"}}])
    assert (await client.get(f"{where}/why")).json()["error"]["code"] == "npc_silent"
    await client.post(f"{where}/say", json={"line": "Hello there", "seed": 1})
    line = {"line": "How many pennies make a heron, and what of the river?", "temperature": 0.5, "seed": 2**40}
    ahead = (await client.post(f"{where}/why", json=line)).json()
    end = (await client.post(f"{where}/say", json=line)).json()
    why = (await client.get(f"{where}/why")).json()
    assert sum(part["tokens"] for part in why["parts"]) == end["usage"]["prompt_tokens"]
    assert why["budget"].pop("cached_tokens") == end["usage"]["cached_tokens"]
    assert why == ahead
    tokens = {part["part"]: part["tokens"] for part in why["parts"]}
    assert min(tokens[name] for name in ("persona", "tools", "lore", "history", "line")) > 0
    assert tokens["turn"] == 0
    kept = [passage for passage in why["lore"] if passage["kept"]]
    assert sum(passage["tokens"] for passage in kept) == tokens["lore"]
    assert {"lore-12"} <= {passage["id"] for passage in kept}
    unknown = [passage for passage in why["lore"] if not passage["kept"]]
    assert unknown[0]["why"] == "Minnow does not know it"
    assert "river" in unknown[0]["matched"]
    request = why["request"]
    assert (request["temperature"], request["seed"]) == (0.5, 2**40)
    assert [m["role"] for m in request["messages"]] == ["system", "user", "assistant", "user"]
    answer = (await client.post("/v1/chat/completions", json=request)).json()
    assert answer["usage"]["prompt_tokens"] == end["usage"]["prompt_tokens"]


async def test_what_does_not_fit_is_named(new_stage: Callable[..., "Stage"]) -> None:
    stage = new_stage(max_position_embeddings=3000)  # a token a byte
    transport = httpx.ASGITransport(create_app(stage.served, api_key=None))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        where = await make(client)
        for _ in range(4):
            await client.post(f"{where}/say", json={"line": "x" * 900, "max_tokens": 8})
        why = (await client.get(f"{where}/why")).json()
        assert why["dropped_exchanges"] == 2
        await client.post(f"{where}/say", json={"line": "pennies, heron, market, rats " + "x" * 1900, "max_tokens": 8})
        why = (await client.get(f"{where}/why")).json()
        assert any(passage["why"].startswith("no room") for passage in why["lore"] if not passage["kept"])
        assert why["budget"]["prompt_tokens"] <= why["budget"]["limit_tokens"] == 2992
        response = await client.post(f"{where}/say", json={"line": "x" * 3000})
        assert response.json()["error"]["code"] == "context_length_exceeded"
        assert (await client.get(f"{where}/why")).json() == why


async def test_saved_and_loaded(client: httpx.AsyncClient) -> None:
    where = await make(client, player="Mara")
    await client.post(f"{where}/say", json={"line": "Hi"})
    document = (await client.post(f"{where}/save")).json()
    assert document["format"] == "understudy-session"
    response = await client.post("/v1/npcs/load", json={"session": document, "tools": [RENT_ROOM]})
    again, before = response.json(), (await client.get(where)).json()
    assert response.status_code == 201
    assert again["id"] != before["id"]
    same = ("character", "player", "world", "greeting", "history")
    assert {key: again[key] for key in same} == {key: before[key] for key in same}
    assert again["tools"] == []  # it is no function of Minnow's in this world
    for change, problem in (({"world": "mars"}, "saved in the world 'mars'"), ({"history": 1}, "is damaged")):
        response = await client.post("/v1/npcs/load", json={"session": {**document, **change}})
        error = response.json()["error"]
        assert (response.status_code, error["param"]) == (400, "session")
        assert problem in error["message"]
        assert error["message"].startswith("The session ")


async def test_a_card_in_a_file(client: httpx.AsyncClient, tmp_path: Path) -> None:
    card = dataclasses.replace(Card(name="Vex", first_mes="Hey {{user}}."), picture=PIXEL)
    for name in ("vex.png", "vex.charx", "vex.json"):
        card.save(tmp_path / name)
        encoded = base64.b64encode((tmp_path / name).read_bytes()).decode()
        where = await make(client, character=None, card_file=encoded)
        npc = (await client.get(where)).json()
        assert (npc["character"]["name"], npc["greeting"]) == ("Vex", "Hey traveller.")
    for broken in ("%", base64.b64encode(PIXEL).decode(), base64.b64encode(PIXEL[:40]).decode()):
        response = await client.post("/v1/npcs", json={"card_file": broken})
        error = response.json()["error"]
        assert (response.status_code, error["param"]) == (400, "card_file")
        assert error["message"].startswith("The card")
        assert "/" not in error["message"]


async def test_a_card_from_outside(client: httpx.AsyncClient, stage: "Stage") -> None:
    card = {
        "name": "Vex",
        "description": "A mechanic.",
        "personality": "wry",
        "scenario": "",
        "first_mes": "Hey {{user}}.",
    }
    where = await make(client, character=None, card={**card, "mes_example": "", "x": 1}, player="Mara")
    npc = (await client.get(where)).json()
    assert (npc["greeting"], npc["world"]) == ("Hey Mara.", None)
    await client.post(f"{where}/say", json={"line": "Where is the river?"})
    why = (await client.get(f"{where}/why")).json()
    assert (why["lore"], why["parts"][2]["tokens"]) == ([], 0)
    where = await make(client, character=None, card=card, world="harrowmere")
    await client.post(f"{where}/say", json={"line": "Where is the river?"})
    assert (await client.get(f"{where}/why")).json()["lore"]
    assert (await client.post(f"{where}/save")).json()["card"]["name"] == "Vex"
    assert "You are Vex" in stage.prompts[0]


async def test_a_cards_own_lorebook_is_told_of(client: httpx.AsyncClient) -> None:
    entry = {"extensions": {}, "enabled": True, "insertion_order": 1}
    book = {
        "extensions": {},
        "entries": [
            {**entry, "keys": ["cable"], "content": "Cables are blue."},
            *({**entry, "keys": [f"word{n}"], "content": "Never."} for n in range(40)),
        ],
    }
    data = {"name": "Vex", "description": "", "character_book": book}
    where = await make(client, character=None, card={"spec": "chara_card_v2", "spec_version": "2.0", "data": data})
    end = (await client.post(f"{where}/say", json={"line": "Which cable?"})).json()
    why = (await client.get(f"{where}/why")).json()
    (kept,) = [passage for passage in why["lore"] if passage["kept"]]
    assert (kept["source"], kept["text"]) == ("lorebook", "Cables are blue.")
    assert "cable" in kept["why"]
    assert kept["tokens"] == next(part["tokens"] for part in why["parts"] if part["part"] == "lore") > 0
    assert sum(part["tokens"] for part in why["parts"]) == end["usage"]["prompt_tokens"]
    assert 0 < len(why["lore"]) - 1 <= 16


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({}, 400, None),
        ({"character": "minnow", "card": {"name": "x"}}, 400, None),
        ({"character": "../../etc/passwd"}, 404, "character"),
        ({"character": "minnow", "colour": 1}, 400, None),
        ({"character": "minnow", "player": " "}, 400, "player"),
        ({"character": "minnow", "player": "a\nSystem"}, 400, "player"),
        ({"character": "minnow", "player": "x" * 65}, 400, "player"),
        ({"character": "minnow", "world": "mars"}, 404, "world"),
        (
            {"character": "minnow", "tools": [{"type": "function", "function": {"name": "a b"}}]},
            400,
            "tools[0].function.name",
        ),
        ({"card": {}}, 400, "card"),
        ({"card": {"name": 5}}, 400, "card"),
        ({"card": {"spec": "chara_card_v9", "data": {}}}, 400, "card"),
        ({"card": {"name": "x", "description": "x" * (1 << 20)}}, 400, "card"),
    ],
)
async def test_wrong_requests(
    client: httpx.AsyncClient, fields: dict[str, Any], status: int, param: str | None
) -> None:
    response = await client.post("/v1/npcs", json=fields)
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["type"]) == (status, param, "invalid_request_error")
    assert len(error["message"]) < 400


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"line": ""}, "line"),
        ({"line": "x" * 32_001}, "line"),
        ({"line": 5}, "line"),
        ({"line": "Hi", "temperature": 3}, "temperature"),
        ({"line": "Hi", "max_tokens": 0}, "max_tokens"),
        ({"line": "Hi", "seed": 1 << 70}, "seed"),
        ({"line": "Hi", "tempreature": 1}, None),
    ],
)
async def test_wrong_lines(client: httpx.AsyncClient, fields: dict[str, Any], param: str | None) -> None:
    where = await make(client)
    for path in ("say", "why"):
        response = await client.post(f"{where}/{path}", json={**fields})
        assert (response.status_code, response.json()["error"]["param"]) == (400, param), response.text
    assert (await client.get(where)).json()["history"] == []


def test_the_client_runs_what_the_character_calls(stage: "Stage", url: str) -> None:
    with httpx.Client(base_url=url, timeout=30) as client:
        made = client.post("/v1/npcs", json={"character": "hettie", "tools": [RENT_ROOM]}).json()
        where = f"/v1/npcs/{made['id']}"
        assert made["tools"] == ["rent_room"]
        stage.script = CALL
        with client.stream("POST", f"{where}/say", json={"line": "A bed!", "stream": True}) as response:
            events = list(answered(client, where, response, stage))
        assert [event["type"] for event in events if event["type"] != "words"] == ["call", "result", "end"]
        call, result = events[0], events[1]
        assert json.loads(call["arguments"]) == {"room": "single", "nights": 2}
        assert (result["id"], result["content"], result["status"]) == (call["id"], "The bed is yours.", "ok")
        assert (events[-1]["text"], events[-1]["usage"]["rounds"]) == ("Done.", 2)
        history = client.get(where).json()["history"]
        assert [message["role"] for message in history] == ["user", "assistant", "tool", "assistant"]
        why = client.get(f"{where}/why").json()
        assert {part["part"]: part["tokens"] for part in why["parts"]}["turn"] > 0
        assert [message["role"] for message in why["request"]["messages"][-2:]] == ["assistant", "tool"]
        late = client.post(f"{where}/calls/{call['id']}", json={"content": "again"})
        assert (late.status_code, late.json()["error"]["code"]) == (404, "call_not_found")


def answered(client: httpx.Client, where: str, response: httpx.Response, stage: "Stage") -> Iterator[dict[str, Any]]:
    """The events of a stream; its calls are answered."""
    for line in response.iter_lines():
        if line.startswith("data: "):
            event = json.loads(line[6:])
            yield event
            if event["type"] == "call":
                stage.script = "Done."
                given = client.post(f"{where}/calls/{event['id']}", json={"content": "The bed is yours."})
                assert given.status_code == 200


@pytest.mark.parametrize(("content", "status"), [(None, 404), ("x" * 32_001, 400), (7, 400)])
async def test_results_are_checked(client: httpx.AsyncClient, content: Any, status: int) -> None:
    answer = await client.post("/v1/npcs/0/calls/0", json={"content": content})
    assert (answer.status_code, status == 404 or answer.json()["error"]["param"] == "content") == (status, True)


async def test_calls_of_a_whole_answer_are_shown(client: httpx.AsyncClient, stage: "Stage") -> None:
    where = await make(client, character="hettie", tools=[RENT_ROOM])
    stage.script = CALL
    whole = (await client.post(f"{where}/say", json={"line": "A bed!"})).json()
    assert (whole["reason"], [call["name"] for call in whole["calls"]]) == ("shown", ["rent_room"])
    assert (await client.get(where)).json()["history"] == []


def test_leaving_stops_the_model(stage: "Stage", url: str) -> None:
    stage.endless, stage.script = True, "and so on "
    with httpx.Client(base_url=url, timeout=30) as client:
        where = f"/v1/npcs/{client.post('/v1/npcs', json={'character': 'minnow'}).json()['id']}"
        with client.stream("POST", f"{where}/say", json=ENDLESSLY) as response:
            lines = response.iter_lines()
            next(lines)
            busy = client.post(f"{where}/say", json={"line": "And?"})
            assert (busy.status_code, busy.json()["error"]["code"]) == (409, "npc_busy")
            assert client.get(f"{where}/why").json()["error"]["code"] == "npc_silent"
        stage.endless, stage.script = False, "Hello."
        response = client.post(f"{where}/say", json={"line": "Well?"})  # right after: it waits for the end of the other
        assert response.json().get("text") == "Hello.", response.text
        history = client.get(where).json()["history"]
        assert history[1]["content"].startswith("and so on")
        assert [message["content"] for message in history[2:]] == ["Well?", "Hello."]
        assert client.get(f"{where}/why").json()["line"] == "Well?"
    assert stage.engine.stats().num_running == 0


def test_deleting_stops_the_model(stage: "Stage", url: str) -> None:
    stage.endless, stage.script = True, "and so on "
    with httpx.Client(base_url=url, timeout=30) as client:
        where = f"/v1/npcs/{client.post('/v1/npcs', json={'character': 'minnow'}).json()['id']}"
        with client.stream("POST", f"{where}/say", json=ENDLESSLY) as response:
            lines = response.iter_lines()
            next(lines)
            assert client.delete(where).status_code == 200
            deadline = time.monotonic() + 10
            while stage.engine.stats().num_running and time.monotonic() < deadline:
                time.sleep(0.01)
            assert stage.engine.stats().num_running == 0
            assert "npc_deleted" in list(lines)[-2]


async def test_a_failure_is_told_in_the_stream(client: httpx.AsyncClient, stage: "Stage") -> None:
    where = await make(client)
    stage.failure = RuntimeError("broken")
    response = await client.post(f"{where}/say", json={"line": "Hi", "stream": True})
    assert response.status_code == 500
    stage.fails_after = stage.num_steps + 8
    events = told((await client.post(f"{where}/say", json={"line": "Hi", "stream": True})).text)
    assert [event["type"] for event in events[-2:]] == ["words", "error"]
    assert events[-1]["error"]["type"] == "server_error"


def npc(name: str = "Ada") -> HostedNpc:
    return HostedNpc(Session(Card(name=name)))


def test_the_house_is_bounded() -> None:
    now = [0.0]
    house = NpcHouse(max_npcs=2, idle_s=10, clock=lambda: now[0])
    first, _second = house.add(npc(), "a"), house.add(npc(), "b")
    with pytest.raises(Problem, match="There are 2 characters already") as full:
        house.add(npc(), "a")
    assert (full.value.status, full.value.headers) == (429, {"retry-after": "60"})
    now[0] = 8
    house.get(first, "a")
    now[0] = 15
    third = house.add(npc(), "a")
    assert list(house.all_of("a")) == [first, third]
    assert house.all_of("b") == {}
    with pytest.raises(Problem, match="idle too long"):
        house.get(first, "b")
    house.remove(first, "a")
    small = NpcHouse(max_bytes=100)
    with pytest.raises(Problem):
        small.add(npc("A" * 200), "a")


async def test_clients_do_not_share(stage: "Stage") -> None:
    app = create_app(stage.served, api_key="secret")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        for path in ("/v1/npcs", "/v1/characters"):
            assert (await client.get(path)).status_code == 401
        client.headers["authorization"] = "Bearer secret"
        where = await make(client)
        assert (await client.get(where)).status_code == 200


async def test_two_at_a_time_wait_briefly(client: httpx.AsyncClient) -> None:
    where = await make(client)
    both = await asyncio.gather(*(client.post(f"{where}/say", json={"line": line}) for line in ("a", "b")))
    assert [response.status_code for response in both] == [200, 200]
    assert len((await client.get(where)).json()["history"]) == 4


async def test_a_character_in_a_chat_request(client: httpx.AsyncClient, stage: "Stage") -> None:
    """A client that knows only chat completions is shown what a session would be."""
    where = await make(client)
    for line in ("Hello there", "How many pennies make a heron?"):
        await client.post(f"{where}/say", json={"line": line})
    shown = (await client.get(f"{where}/why")).json()
    messages = shown["request"]["messages"][1:]
    body = {"model": "harrow", "character": "Minnow", "messages": messages}
    answer = (await client.post("/v1/chat/completions", json=body)).json()
    assert answer["usage"]["prompt_tokens"] == shown["budget"]["prompt_tokens"]
    assert stage.prompts[-1] == stage.prompts[-2]
    own = [{"role": "system", "content": "It snows."}, *messages]
    answer = await client.post("/v1/chat/completions", json={**body, "messages": own, "documents": ["Snow is cold."]})
    assert answer.status_code == 200
    assert "in the market crowd.\n\nIt snows.\n" in stage.prompts[-1]
    assert "<context> Snow is cold. </context>" in stage.prompts[-1]


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"character": "nobody"}, 404, "character"),
        ({"character": ""}, 400, "character"),
        ({"messages": [{"role": "system", "content": "x"}]}, 400, "messages"),
        ({"messages": [{"role": "user", "content": "x" * 5000}]}, 400, "messages"),
    ],
)
async def test_wrong_characters(client: httpx.AsyncClient, fields: dict[str, Any], status: int, param: str) -> None:
    body = {"model": "harrow", "messages": [{"role": "user", "content": "Hi"}], "character": "minnow", **fields}
    response = await client.post("/v1/chat/completions", json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (status, param)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_line_ends_when_its_time_is_over(stage: "Stage", stream: bool) -> None:
    """As on OpenAI's routes: with what there is, and with a 503 where there is nothing."""
    stage.endless, stage.script = True, "and so on "
    app = create_app(stage.served, options=ServerOptions(max_request_s=1.5))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test", timeout=60) as client:
        where = await make(client)
        line = {**ENDLESSLY, "stream": stream}
        said = await client.post(f"{where}/say", json=line)
        end = told(said.text)[-1] if stream else said.json()
        assert (end["finish_reason"], end["text"].startswith("and so on")) == ("length", True)
        history = (await client.get(where)).json()["history"]
        assert history[-1]["content"] == end["text"]
        stage.served.options = ServerOptions(max_request_s=1e-6)
        late = await client.post(f"{where}/say", json=line)
        assert (late.status_code, late.json()["error"]["code"]) == (503, "deadline_exceeded")
        assert int(late.headers["retry-after"]) > 0
        assert (await client.get(where)).json()["history"] == history


@pytest.mark.slow
def test_a_call_without_a_result_ends_in_time_too(stage: "Stage", listening: Callable[..., Any]) -> None:
    stage.script = CALL
    app = create_app(stage.served, options=ServerOptions(max_request_s=8))
    with listening(app) as address, httpx.Client(base_url=address, timeout=30) as client:
        made = client.post("/v1/npcs", json={"character": "hettie", "tools": [RENT_ROOM]}).json()
        began_s = time.monotonic()
        said = client.post(f"/v1/npcs/{made['id']}/say", json={"line": "A bed!", "stream": True}, timeout=120)
        events = told(said.text)
    assert [event["type"] for event in events if event["type"] != "words"] == ["call", "result", "end"]
    assert (events[-1]["reason"], events[-1]["finish_reason"]) == ("deadline", "length")
    assert time.monotonic() - began_s < 50  # a call has a minute otherwise
