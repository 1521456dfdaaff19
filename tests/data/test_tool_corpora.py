import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from understudy.data.dialogues import to_conversation
from understudy.data.tool_corpora import is_grounded, read_coffee_orders, read_snips, read_star
from understudy.errors import DataError
from understudy.prompt import render


def write(folder: Path, name: str, *records: Mapping[str, Any]) -> Path:
    (folder / "fc").mkdir(exist_ok=True)
    (folder / "fc" / name).write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return folder


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def says(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def calls(name: str, **arguments: Any) -> dict[str, Any]:
    return {"role": "assistant", "calls": [{"name": name, "arguments": arguments}]}


def tool(**content: Any) -> dict[str, Any]:
    return {"role": "tool", "name": "x", "content": content}


def test_a_coffee_order(tmp_path: Path) -> None:
    order = [
        user("One mocha, please"),
        calls("get_menu_items", query="mocha "),
        tool(menu_items=[{"menu_item_id": "mocha-1"}]),
        calls("add_order_item", menu_item_id="mocha-1", quantity="1"),
        tool(order_id="7"),
        says("Is this right?"),
        user("Yes"),
        calls("finish_order", order_id="7"),
    ]
    write(tmp_path, "taskmaster4_coffee.jsonl", {"messages": order}, {"messages": [user("Hi"), says("Hello.")]})
    (record,) = read_coffee_orders(tmp_path)  # the second calls nothing
    assert [turn["role"] for turn in record["turns"]] == ["user", "assistant", "tool", "assistant", "tool", "assistant"]
    assert record["turns"][1]["tool_calls"] == [{"name": "get_menu_items", "arguments": {"query": "mocha"}}]
    assert record["turns"][3]["tool_calls"][0]["arguments"] == {"menu_item_id": "mocha-1", "quantity": 1}
    assert json.loads(record["turns"][2]["content"]) == {"menu_items": [{"menu_item_id": "mocha-1"}]}
    offered = {schema["function"]["name"] for schema in record["tools"]}
    assert offered >= {"get_menu_items", "add_order_item"}
    assert render(to_conversation(record), add_generation_prompt=False)


API = {
    "input": [
        {"Name": "Name", "Type": "Categorical", "Categories": ["Porch", "Lucca"], "ReadableName": "House"},
        {"Name": "Time", "Type": "Categorical", "Categories": [f"{n} pm" for n in range(24)], "ReadableName": "Time"},
        {"Name": "PartySize", "Type": "Integer", "ReadableName": "Party Size"},
        {"Name": "RequestType", "Type": "RequestType", "Categories": ["Check", "Book"], "ReadableName": "Request"},
    ],
    "required": ["Name", "PartySize", "RequestType"],
}


def star(*messages: dict[str, Any]) -> dict[str, Any]:
    return {"tasks": ["restaurant_book"], "messages": list(messages)}


ASKED = (
    says("Hello?"),
    user("A table at Porch."),
    says("Well,"),
    says("for how many?"),
    user("Four, at 7 pm."),
)
BOOKING = {"Name": "Porch", "Time": 'api.is_equal_to("7 pm")', "PartySize": "4", "RequestType": "Book"}


def star_folder(tmp_path: Path, *records: dict[str, Any]) -> Path:
    write(tmp_path, "star.jsonl", *records)
    (tmp_path / "fc" / "star_apis.json").write_text(json.dumps({"restaurant_book": API}))
    return tmp_path


def test_a_clerk_asks_and_books(tmp_path: Path) -> None:
    folder = star_folder(tmp_path, star(*ASKED, calls("restaurant_book", **BOOKING), tool(ok=1), says("Booked.")))
    (record,) = read_star(folder)
    assert [turn["content"] for turn in record["turns"]] == [
        "A table at Porch.", "Well, for how many?", "Four, at 7 pm.", "", '{"ok": 1}', "Booked.",
    ]  # fmt: skip
    (call,) = record["turns"][3]["tool_calls"]
    assert call["arguments"] == {"Name": "Porch", "Time": "7 pm", "PartySize": 4, "RequestType": "Book"}
    properties = record["tools"][0]["function"]["parameters"]["properties"]
    assert properties["Name"] == {"type": "string", "enum": ["Porch", "Lucca"], "description": "House"}
    assert "enum" not in properties["Time"]  # too many to read


@pytest.mark.parametrize(
    "wrong",
    [{"PartySize": "6"}, {"PartySize": "many"}, {"Name": "Legume"}, {"Time": "api.is_at_most(7)"}, {"Name": None}],
)
def test_a_dialogue_ends_before_what_nobody_said(tmp_path: Path, wrong: dict[str, Any]) -> None:
    bad = {key: value for key, value in {**BOOKING, **wrong}.items() if value is not None}
    good = (*ASKED, calls("restaurant_book", **BOOKING), tool(ok=1), says("Booked."))
    rest = (user("Again."), calls("restaurant_book", **bad), tool(ok=1), says("Done."))
    folder = star_folder(tmp_path, star(*good, *rest), star(*ASKED, calls("restaurant_book", **bad), says("Done.")))
    (record,) = read_star(folder)
    assert record["turns"][-1]["content"] == "Booked."


def test_what_prepares_a_call_that_is_cut_off_goes_with_it(tmp_path: Path) -> None:
    good = (*ASKED, calls("restaurant_book", **BOOKING), tool(ok=1), says("Booked."), user("Thanks."), says("Bye."))
    (record,) = read_star(star_folder(tmp_path, star(*good, user("And a doctor?"), says("Your symptoms?"))))
    assert record["turns"][-1]["content"] == "Bye."


def test_one_request_one_call(tmp_path: Path) -> None:
    said = {"text": "Play songs by Ada", "call": {"name": "PlayMusic", "arguments": {"artist": "ada"}}}
    unsaid = {"text": "Play songs", "call": {"name": "PlayMusic", "arguments": {"artist": "Ada"}}}
    folder = write(tmp_path, "snips_intents.jsonl", *[said] * 50, *[unsaid] * 50)
    records = list(read_snips(folder))
    assert 2 <= len(records) <= 25
    assert {record["turns"][0]["content"] for record in records} == {"Play songs by Ada"}
    assert records[0]["turns"][1]["tool_calls"] == [{"name": "PlayMusic", "arguments": {"artist": "ada"}}]


@pytest.mark.parametrize(
    ("value", "said", "is_said"),
    [
        ("Porch", "a table at porch", True),
        (4, "four of us", True),
        (4, "fourteen of us", False),
        (14, "at 145", False),
        (250, "250 coins", True),
        (True, "", True),
        ([1, {"a": "x"}], "one x", True),
        (["x", "y"], "x", False),
    ],
)
def test_what_was_said(value: Any, said: str, is_said: bool) -> None:
    assert is_grounded(value, said) is is_said


@pytest.mark.parametrize("read", [read_coffee_orders, read_star, read_snips])
def test_other_forms_are_refused(tmp_path: Path, read: Any) -> None:
    for name in ("taskmaster4_coffee.jsonl", "star.jsonl", "snips_intents.jsonl"):
        write(tmp_path, name, {"tasks": 3, "call": {}})
    (tmp_path / "fc" / "star_apis.json").write_text("{}")
    with pytest.raises(DataError, match="has another form"):
        list(read(tmp_path))
