"""Cards with fields missing or wrong: an error, or a card that keeps its fields in every version."""

import dataclasses
import json
import random
from typing import Any

import pytest

from understudy.errors import CardError
from understudy.npc.card import Card
from understudy.npc.card_check import check_card
from understudy.npc.card_versions import convert_card

ENTRY = {
    "keys": ["a", "/b(c|d)/i"],
    "secondary_keys": ["z"],
    "selective": True,
    "content": "@@depth 2\n@@@role user\nText of {{char}}.",
    "extensions": {"position": 4, "depth": 2, "role": 0, "probability": 50, "selectiveLogic": 1, "group": "g"},
    "enabled": True,
    "insertion_order": 5,
    "priority": 3,
    "id": 1,
    "position": "before_char",
}
DATA = {
    "name": "Ada",
    "nickname": "A",
    "description": "d {{random:a,b}}",
    "first_mes": "f",
    "system_prompt": "{{original}} x",
    "alternate_greetings": ["a"],
    "tags": ["t"],
    "creator_notes": "n",
    "creator_notes_multilingual": {"de": "x"},
    "extensions": {"understudy": {"id": "ada", "role": "smith", "tools": ["x"]}, "other": {}},
    "assets": [{"type": "icon", "uri": "ccdefault:", "name": "main", "ext": "png"}],
    "character_book": {"scan_depth": 2, "token_budget": 50, "recursive_scanning": True, "entries": [ENTRY]},
}
CARD = {"spec": "chara_card_v3", "spec_version": "3.0", "data": DATA}
WRONG = [
    None,
    True,
    0,
    -1,
    1.5,
    10**20,
    "",
    "x",
    "龍",
    "\ud800",
    [],
    {},
    ["a"],
    [1],
    {"a": 1},
    "@@activate\nx",
    "{{pick:a}}",
]


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [*([path] if path else []), *(inner for key, one in items for inner in paths(one, (*path, key)))]


def spoil(luck: random.Random) -> dict[str, Any]:
    """The card with one field taken out or replaced."""
    document = json.loads(json.dumps(CARD))
    *way, last = luck.choice(paths(CARD))
    target = document
    for key in way:
        target = target[key]
    if luck.random() < 0.3:
        del target[last]
    else:
        target[last] = luck.choice(WRONG)
    return document


def test_spoiled_cards_are_refused_or_keep_their_fields() -> None:
    luck = random.Random(1)
    num_read = 0
    for _ in range(150):
        document = spoil(luck)
        try:
            card = Card.from_json(document)
        except CardError:
            continue
        num_read += 1
        assert card.to_json() == document
        check_card(card)
        assert card.instructions("Bren", seed=3)
        for version in ("v1", "v2", "v3"):
            turned = Card.from_json(convert_card(document, version))
            assert turned.version == version
            assert dataclasses.replace(turned, lorebook=None, extensions={}) == dataclasses.replace(
                card, lorebook=None, extensions={}
            )
            changed = dataclasses.replace(turned, role="queen", description="new", lorebook=None, tags=("q",))
            assert Card.from_json(changed.to_json()) == changed
    assert 30 < num_read < 140


def test_a_version_demands_its_fields() -> None:
    filled = convert_card({**CARD, "data": {"name": "Ada", "tags": None}}, "v3")["data"]
    assert (filled["tags"], filled["scenario"], filled["group_only_greetings"]) == ([], "", [])


def test_our_fields_go_where_an_applications_data_belong() -> None:
    flat = {"name": "Ada", "role": "smith", "knowledge": ["l1"], "secret": "s", "extensions": None, "x": 1}
    nested = convert_card(flat, "v2")["data"]
    assert nested["extensions"] == {"understudy": {"role": "smith", "knowledge": ["l1"], "secret": "s"}}
    assert not {"role", "knowledge", "secret"} & nested.keys()
    back = convert_card(convert_card(flat, "v2"), "v1")
    assert {key: back[key] for key in ("role", "knowledge", "secret", "x")} == {
        key: flat[key] for key in ("role", "knowledge", "secret", "x")
    }


def test_foreign_fields_of_our_names_are_left_alone() -> None:
    document = {"spec": "chara_card_v2", "spec_version": "2.0", "data": {"name": "Ada", "tools": [{"f": 1}], "role": 3}}
    card = Card.from_json(document)
    assert (card.tools, card.role) == ((), "")
    assert dataclasses.replace(card, role="smith").to_json()["data"]["role"] == 3


def test_there_are_three_versions() -> None:
    with pytest.raises(CardError, match="Choose one of v1, v2, v3"):
        convert_card(CARD, "v4")  # type: ignore[arg-type]
