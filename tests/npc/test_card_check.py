import json
from pathlib import Path
from typing import Any

import pytest

from understudy.errors import CardError
from understudy.npc.card import Card
from understudy.npc.card_check import check_card, check_file, check_lorebook
from understudy.npc.lorebook import Lorebook
from understudy.npc.world import World

GOOD = {"name": "Ada", "description": "A smith.", "first_mes": "Yes?"}
ENTRY = {"keys": ["well"], "content": "Deep."}


def v3(**data: Any) -> dict[str, Any]:
    whole = dict.fromkeys(("personality", "scenario", "system_prompt", "post_history_instructions", "mes_example"), "")
    whole |= dict.fromkeys(("creator_notes", "creator", "character_version"), "")
    lists: dict[str, Any] = {key: [] for key in ("alternate_greetings", "tags", "group_only_greetings")}
    return {
        "spec": "chara_card_v3",
        "spec_version": "3.0",
        "data": {**GOOD, **whole, **lists, "extensions": {}, **data},
    }


def test_good_cards_have_no_problems(harrowmere: World) -> None:
    for card in (*harrowmere.characters, Card.from_json(GOOD), Card.from_json(v3(character_book={"entries": [ENTRY]}))):
        assert check_card(card) == []


@pytest.mark.parametrize(
    ("document", "where", "text"),
    [
        ({**GOOD, "description": ""}, "description", "nothing says who"),
        ({**GOOD, "first_mes": " "}, "first_mes", "no greeting"),
        ({**GOOD, "description": "word " * 1501}, "description", "1501 words"),
        ({**GOOD, "scenario": "{{weather}}"}, "scenario", "{{weather}} is not known"),
        ({**GOOD, "alternate_greetings": ["{{time}}"]}, "alternate_greetings 0", "{{time}} is not known"),
        ({"spec": "chara_card_v2", "data": GOOD}, "data", "V2 demands personality"),
        ({**v3(), "spec_version": "3.5"}, "spec_version", "'3.5', not known"),
        (v3(assets=[{"type": "icon", "uri": "embeded://no.png"}]), "assets", "not in the card"),
        (v3(assets=[{"type": "x", "uri": "https://example.org/a.png"}]), "assets", "not in the card"),
        (v3(assets=[{"type": "icon", "uri": "ccdefault:", "name": "main"}] * 2), "assets", "2 icons are named main"),
    ],
)
def test_problems_of_cards(document: dict[str, Any], where: str, text: str) -> None:
    found = [problem for problem in check_card(Card.from_json(document)) if problem.where == where]
    assert text in found[0].text
    assert found[0].mend


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"keys": []}, "no keys"),
        ({"content": ""}, "no text"),
        ({"keys": ["/(?<=a)b/"]}, "never matches: look-around"),
        ({"keys": ["we(ll"], "use_regex": True}, "never matches: unclosed group"),
        ({"extensions": {"probability": 0}}, "probability is 0"),
        ({"extensions": {"position": 7}}, "outlet"),
        ({"secondary_keys": ["dry"]}, "without selective"),
        ({"secondary_keys": ["dry"], "use_regex": True}, "beside use_regex"),
        ({"content": "@@mood glad\nDeep."}, "@@mood glad is not known"),
        ({"content": "@@depth deep\nDeep."}, "wrong value"),
        ({"content": "@@instruct_depth 9\nDeep."}, "is for plain text"),
        ({"content": "Deep {{time}}."}, "{{time}} is not known"),
    ],
)
def test_problems_of_entries(changes: dict[str, Any], text: str) -> None:
    book = Lorebook.from_json({"entries": [{**ENTRY, **changes}]})
    (problem,) = check_lorebook(book)
    assert text in problem.text
    assert problem.where == "entry '0'"


def test_files_may_be_lorebooks(tmp_path: Path) -> None:
    path = tmp_path / "book.json"
    for document in ({"entries": {"0": {"key": []}}}, {"spec": "lorebook_v3", "data": {"entries": [{}]}}):
        path.write_text(json.dumps(document))
        assert check_file(path)[0].text == "it has no text and never comes in"
    path.write_text(json.dumps(GOOD))
    assert check_file(path) == []
    path.write_text("{}")
    with pytest.raises(CardError, match="no name"):
        check_file(path)
