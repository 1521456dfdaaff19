import json
import random
from typing import Any

from understudy.data.recast import Recaster, lower_case_words
from understudy.data.tool_shuffle import ToolShuffler, recast_calls


def schema(name: str, description: str, **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


RENT = schema(
    "rent_room",
    "Rent the guest a bed.",
    room={"type": "string", "enum": ["river", "common"]},
    nights={"type": "integer"},
)
POOL = [RENT, schema("sell_fish", "Sell fish.", kind={"type": "string"}), schema("rent_boat", "Let a boat.")]
RECORD = {
    "system": "You are Ada Fell. Use rent_room for rooms.",
    "context": [],
    "tools": [RENT],
    "turns": [
        {"role": "user", "content": "A bed for two nights, the river room. I am Bren Hollow."},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"name": "rent_room", "arguments": {"room": "river", "nights": 2}}],
        },
        {"role": "tool", "content": '{"ok": true, "guest": "Bren Hollow"}'},
        {"role": "assistant", "content": "Yours, Bren."},
    ],
}


def test_calls_follow_their_schema() -> None:
    shuffler = ToolShuffler(random.Random(1), POOL)
    seen = set()
    for _ in range(200):
        other = shuffler.shuffled(RECORD)
        call = other["turns"][1]["tool_calls"][0]
        (function,) = (t["function"] for t in other["tools"] if t["function"]["name"] == call["name"])
        properties = function["parameters"]["properties"]
        assert set(call["arguments"]) == set(properties) == set(function["parameters"]["required"])
        assert sorted(map(str, call["arguments"].values())) == ["2", "river"]
        (room,) = (shape for shape in properties.values() if "enum" in shape)
        assert sorted(room["enum"]) == ["common", "river"]
        assert call["name"] in other["system"]
        names = [tool["function"]["name"] for tool in other["tools"]]
        assert len(set(names)) == len(names)
        seen.add(call["name"])
    assert {"rent_room", "rentRoom"} < seen
    assert len(seen) > 20
    assert RECORD["turns"][1]["tool_calls"][0]["name"] == "rent_room"  # the original is as it was


def test_strangers_have_nothing_to_do_with_it() -> None:
    strangers = ToolShuffler(random.Random(1), POOL).strangers(RECORD, 5)
    assert [tool["function"]["name"] for tool in strangers] == ["sell_fish"]
    talk = {**RECORD, "tools": [], "turns": [{"role": "user", "content": "Do you sell boats?"}]}
    assert [t["function"]["name"] for t in ToolShuffler(random.Random(1), POOL).strangers(talk, 5)] == ["rent_room"]


def test_names_change_alike_everywhere() -> None:
    recaster = Recaster(random.Random(2), lower_case_words(["you are a bed for the use of yours"]), only_names=True)
    other = recast_calls(RECORD, recaster)
    assert "Bren" not in json.dumps(other)
    guest = json.loads(other["turns"][2]["content"])["guest"]
    assert guest in other["turns"][0]["content"]
    assert other["turns"][3]["content"] == f"Yours, {guest.split()[0]}."
    assert other["turns"][1]["tool_calls"] == RECORD["turns"][1]["tool_calls"]


def test_what_would_no_longer_be_said_stays() -> None:
    turns = [
        {"role": "user", "content": "A letter to Brens, please."},
        {"role": "assistant", "content": "", "tool_calls": [{"name": "send", "arguments": {"to": "Bren"}}]},
    ]
    record = {"system": "", "context": [], "tools": [schema("send", "Send.", to={"type": "string"})], "turns": turns}
    assert recast_calls(record, Recaster(random.Random(2), {"a": 1, "letter": 1}, only_names=True)) is record
