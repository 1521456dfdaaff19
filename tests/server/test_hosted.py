"""A hosted character does all that the object in Python does."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from understudy.npc.npc import Npc, NpcOptions
from understudy.retrieval import Document, Passage, build_lore
from understudy.server import ServedModel, create_app
from understudy.server.npc_stores import NpcStores
from understudy.server.options import ServerOptions

if TYPE_CHECKING:
    from conftest import Stage

CARD = {"name": "Pell", "description": "A ferryman."}
BOOK = {"name": "ferry", "entries": [{"keys": ["ferry"], "content": "The ferry leaves at dawn."}]}


async def make(client: httpx.AsyncClient, **fields: Any) -> str:
    response = await client.post("/v1/npcs", json={"card": CARD, **fields})
    assert response.status_code == 201, response.text
    return f"/v1/npcs/{response.json()['id']}"


async def test_one_seed_one_conversation_here_and_in_python(tiny: httpx.AsyncClient, tiny_served: ServedModel) -> None:
    where = await make(tiny, seed=7, options={"max_tokens": 6, "temperature": 1.0})
    said = [(await tiny.post(f"{where}/say", json={"line": line})).json() for line in ("Hi", "And?")]
    again = await make(tiny, seed=7, options={"max_tokens": 6, "temperature": 1.0})
    assert [(await tiny.post(f"{again}/say", json={"line": line})).json()["text"] for line in ("Hi", "And?")] == [
        answer["text"] for answer in said
    ]
    assert said[0]["seed"] != said[1]["seed"]


async def test_the_line_is_the_objects(stage: "Stage", client: httpx.AsyncClient, monkeypatch: Any) -> None:
    """What a line is said with, on the very object that a game in Python holds."""
    taken: list[NpcOptions] = []
    begin = Npc._begin

    def watch(self: Npc, options: NpcOptions | None, **how: Any) -> Any:
        taken.append(options or self.options)
        return begin(self, options, **how)

    monkeypatch.setattr(Npc, "_begin", watch)
    options = {"max_tokens": 9, "dry_base": 1.5, "deadline_s": 50, "max_calls": 2, "fallback": ["Hm."]}
    where = await make(client, options=options)
    assert (await client.get(where)).json()["options"] == options
    line = {
        "line": "Hi",
        "dry_multiplier": 2.0,
        "dry_sequence_breakers": ["."],
        "max_rounds": 3,
        "deadline_s": 500,
    }
    assert (await client.post(f"{where}/say", json=line)).json()["text"] == "Hello."
    (own,) = taken
    assert own.sampling is not None
    assert (own.sampling.dry_multiplier, own.sampling.dry_base, own.sampling.dry_allowed_length) == (2.0, 1.5, 5)
    tokenizer = stage.tokenizer
    assert tokenizer.encode(".")[0] in own.sampling.dry_breakers
    assert tokenizer.encode("\n")[0] not in own.sampling.dry_breakers
    assert (own.max_tokens, own.fallback) == (9, ("Hm.",))
    assert own.limits is not None
    assert (own.limits.max_rounds, own.limits.max_calls, own.limits.timeout_s) == (3, 2, 60.0)
    assert own.deadline_s == 500
    request = (await client.get(f"{where}/why")).json()["request"]
    assert (request["dry_multiplier"], request["dry_base"], request["dry_sequence_breakers"]) == (2.0, 1.5, ["."])


async def test_why_repeats_a_guarded_answer(tiny: httpx.AsyncClient) -> None:
    """A model that says random things, held by a strong guard: the request that `why` tells says the same."""
    strong = {"max_tokens": 40, "temperature": 0.0, "dry_multiplier": 50.0, "dry_allowed_length": 1}
    where = await make(tiny, options=strong)
    guarded = (await tiny.post(f"{where}/say", json={"line": "Hi"})).json()["text"]
    why = (await tiny.get(f"{where}/why")).json()
    answer = (await tiny.post("/v1/chat/completions", json=why["request"])).json()
    assert answer["choices"][0]["message"]["content"].strip() == guarded.strip()
    other = await make(tiny, options={**strong, "dry_multiplier": 0})
    assert (await tiny.post(f"{other}/say", json={"line": "Hi"})).json()["text"] != guarded


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_who_is_late_says_a_scripted_line(client: httpx.AsyncClient, is_streamed: bool) -> None:
    where = await make(client, options={"deadline_s": 1e-6, "fallback": ["Hm.", "One moment."]})
    response = await client.post(f"{where}/say", json={"line": "Hi", "stream": is_streamed})
    if is_streamed:
        assert 'event: words\ndata: {"type":"words","text":"Hm."}' in response.text
        assert '"is_fallback":true' in response.text
    else:
        assert (response.json()["text"], response.json()["is_fallback"]) == ("Hm.", True)
    history = (await client.get(where)).json()["history"]
    assert [message["content"] for message in history] == ["Hi", "Hm."]
    later = (await client.post(f"{where}/say", json={"line": "Well?", "deadline_s": 60})).json()
    assert (later["text"], later["is_fallback"]) == ("Hello.", False)


async def test_a_lorebook_and_a_database_of_the_servers(stage: "Stage", tmp_path: Path) -> None:
    secret = Passage(id="key", text="The reeve keeps the bell's key.", known_to=frozenset({"reeve"}))
    bell = Passage(id="bell", text="The bell rings at dusk.")
    build_lore(tmp_path / "l.db", [Document(name="a", digest="1", read=lambda: (secret, bell))])
    with NpcStores.open(ServerOptions(lore={"town": tmp_path / "l.db"})) as stores:
        transport = httpx.ASGITransport(create_app(stage.served, stores=stores))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            (listed,) = (await client.get("/v1/lore")).json()["data"]
            assert (listed["id"], listed["passages"]) == ("town", 2)
            where = await make(client, lore="town", lorebooks=[BOOK])
            await client.post(f"{where}/say", json={"line": "The bell's key? The ferry?"})
            why = (await client.get(f"{where}/why")).json()
            kept = {passage["id"]: passage["source"] for passage in why["lore"] if passage["kept"]}
            assert kept == {"ferry/0": "lorebook", "bell": "lore"}
            assert why["notes"] == []
            narrator = await make(client, card={"name": "*"}, lore="town")
            await client.post(f"{narrator}/say", json={"line": "Who keeps the bell's key?"})
            assert "reeve" not in stage.prompts[-1]


async def test_warm_reads_before_the_line(tiny: httpx.AsyncClient, tiny_served: ServedModel) -> None:
    where = await make(tiny, card={"name": "Ossian", "description": "Nobody has met him yet. " * 9})
    assert (await tiny.post(f"{where}/warm")).json()["object"] == "npc.warm"
    end = (await tiny.post(f"{where}/say", json={"line": "Hi", "max_tokens": 2})).json()
    assert end["usage"]["cached_tokens"] > end["usage"]["prompt_tokens"] / 2


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"lore": "../../players.db"}, 404, "lore"),
        ({"lorebooks": [{"entries": 5}]}, 400, "lorebooks"),
        ({"lorebooks": [{"entries": [{"content": "x" * (1 << 20)}]}]}, 400, "lorebooks"),
        ({"lorebooks": [BOOK] * 9}, 400, "lorebooks"),
        ({"seed": 1 << 70}, 400, "seed"),
        ({"options": {"fallback": []}}, 400, "options.fallback"),
        ({"options": {"deadline_s": 0}}, 400, "options.deadline_s"),
        ({"options": {"colour": 1}}, 400, "options"),
    ],
)
async def test_slips(client: httpx.AsyncClient, fields: dict[str, Any], status: int, param: str) -> None:
    response = await client.post("/v1/npcs", json={"card": CARD, **fields})
    assert (response.status_code, response.json()["error"]["param"]) == (status, param), response.text


async def test_a_full_house_keeps_nobody(new_stage: Callable[..., "Stage"]) -> None:
    """Wrong values of a line are told before anything is said."""
    stage = new_stage()
    transport = httpx.ASGITransport(create_app(stage.served))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        where = await make(client)
        response = await client.post(f"{where}/say", json={"line": "Hi", "dry_base": 9})
        assert (response.status_code, response.json()["error"]["param"]) == (400, "dry_base")
        assert stage.prompts == []
