import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from understudy.errors import CardError, SaveError
from understudy.npc.card import Card
from understudy.npc.lorebook import Logic, Lorebook, LoreState, Position

ENTRY = {"keys": ["well"], "content": "Deep.", "extensions": {}, "enabled": True, "insertion_order": 1}
BOOK = {"name": "Wells", "extensions": {"x": [1]}, "entries": [ENTRY], "unknown": {"龍": None}}


def test_the_three_kinds_read_alike() -> None:
    info = {"name": "Wells", "entries": {"0": {"key": ["well"], "content": "Deep.", "order": 1, "position": 1}}}
    books = [Lorebook.from_json(document) for document in (BOOK, {"spec": "lorebook_v3", "data": BOOK}, info)]
    assert books[0] == books[1]
    assert books[0].entries[0].content == books[2].entries[0].content == "Deep."
    assert books[0].entries[0].keys == books[2].entries[0].keys == ("well",)
    assert (books[0].entries[0].is_selective, books[2].entries[0].is_selective) == (False, True)
    assert books[0].to_json() == BOOK


def test_what_was_changed_in_code_is_not_lost_in_silence() -> None:
    changed = dataclasses.replace(Lorebook.from_json(BOOK), entries=())
    with pytest.raises(CardError, match="'Wells' was changed in code"):
        changed.to_json()
    with pytest.raises(CardError, match="changed in code"):
        Card(name="Ada", lorebook=changed).to_json()
    assert Card(name="Ada", lorebook=Lorebook.from_json(BOOK)).to_json()["character_book"] == BOOK
    assert dataclasses.replace(changed, raw={}).to_json()["data"]["entries"] == []


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "wells.json"
    path.write_text(json.dumps(BOOK))
    assert Lorebook.load(path) == Lorebook.from_json(BOOK)
    path.write_text("{")
    with pytest.raises(CardError, match=r"wells\.json is no valid JSON"):
        Lorebook.load(path)


def test_null_is_as_good_as_none() -> None:
    names = (
        "case_sensitive",
        "name",
        "priority",
        "id",
        "comment",
        "selective",
        "secondary_keys",
        "constant",
        "position",
    )
    plain = Lorebook.from_json(BOOK)
    assert Lorebook.from_json({**BOOK, "scan_depth": None, "entries": [{**ENTRY, **dict.fromkeys(names)}]}) == plain


def test_patterns_have_a_limit() -> None:
    entries = [{**ENTRY, "keys": [f"/a{n}/", f"b{n}"]} for n in range(2001)]
    with pytest.raises(CardError, match="2001 regular expressions"):
        Lorebook.from_json({"entries": entries})
    assert len(Lorebook.from_json({"entries": entries[:2000]}).entries) == 2000


def test_ids_are_unique() -> None:
    entries = [{**ENTRY, "id": id_} for id_ in (1, 1, "1", True, None, "")]
    assert [entry.id for entry in Lorebook.from_json({"entries": entries}).entries] == [
        "1",
        "1#1",
        "1#2",
        "3",
        "4",
        "5",
    ]


def test_fields_of_world_info() -> None:
    fields = {
        "uid": 7,
        "comment": "The well",
        "key": ["well"],
        "keysecondary": ["deep"],
        "content": "@@mood glad\nText.",
        "selectiveLogic": 3,
        "order": 5,
        "position": 4,
        "depth": 2,
        "role": 1,
        "group": "a, b",
        "delayUntilRecursion": 2,
        "probability": 250,
    }
    (entry,) = Lorebook.from_json({"entries": {"7": fields}}).entries
    assert (entry.id, entry.title, entry.content, entry.logic) == ("7", "The well", "Text.", Logic.AND_ALL)
    assert (entry.position, entry.depth, entry.role, entry.groups) == (Position.AT_DEPTH, 2, "user", ("a", "b"))
    assert (entry.recursion_level, entry.probability) == (2, 100)
    assert entry.decorators.ignored == ("@@mood glad",)


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ([], 'no lorebook: it needs "entries"'),
        ({"entries": 3}, 'no lorebook: it needs "entries"'),
        ({"spec": "lorebook_v9", "data": BOOK}, "says spec 'lorebook_v9'; expected 'lorebook_v3'"),
        ({"entries": ["well"]}, "entry 0 must be an object {...}, not a text"),
        ({"entries": [{**ENTRY, "keys": "well"}]}, 'entry 0: "keys" must be a list of texts'),
        ({"entries": [{**ENTRY, "content": 3}]}, 'entry 0: "content" must be a text, not 3'),
        ({"entries": [{**ENTRY, "enabled": "yes"}]}, '"enabled" must be true or false, not a text'),
        ({"entries": [{**ENTRY, "insertion_order": "1"}]}, '"insertion_order" must be a number, not a text'),
        ({"entries": [{**ENTRY, "insertion_order": float("nan")}]}, '"insertion_order" must be a number, not nan'),
        ({"entries": [{**ENTRY, "position": "moon"}]}, '"position" must be "before_char" or "after_char", not a text'),
        ({"entries": [{**ENTRY, "extensions": []}]}, '"extensions" must be an object {...}, not a list'),
        ({"entries": [{**ENTRY, "extensions": {"sticky": -1}}]}, '"sticky" must be a number from 0 up, not -1'),
        ({"entries": {"0": {"key": [], "selectiveLogic": 4}}}, '"selectiveLogic" must be a whole number from 0 to 3'),
        ({"entries": {"0": {"key": [], "position": 1.5}}}, '"position" must be a whole number from 0 to 7'),
        ({"entries": {"0": {"key": ["\ud800"], "content": "\ud800"}}}, "half of a UTF-16 surrogate pair"),
        ({"entries": [], "token_budget": True}, '"token_budget" must be a number from 0 up, not true or false'),
    ],
)
def test_wrong_books(document: Any, problem: str) -> None:
    with pytest.raises(CardError) as caught:
        Lorebook.from_json(document, source="world.json")
    assert problem in str(caught.value)
    assert str(caught.value).startswith("world.json")


@pytest.mark.parametrize(
    "document", [None, {}, {"timers": {"a": {}}, "first_seen": {}}, {"timers": {}, "first_seen": {"a": "b"}}]
)
def test_wrong_states(document: Any) -> None:
    with pytest.raises(SaveError, match="damaged"):
        LoreState.from_json(document)


def test_an_empty_state_is_json() -> None:
    assert LoreState.from_json(json.loads(json.dumps(LoreState().to_json()))) == LoreState()
