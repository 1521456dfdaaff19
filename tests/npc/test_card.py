import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.errors import CardError
from understudy.npc.card import Card, find_card
from understudy.npc.world import World

V1 = {
    "name": "Ada",
    "description": "{{char}} is a smith. She likes {{User}}.",
    "personality": "Calm",
    "scenario": "<BOT> meets <user>.",
    "first_mes": "Hello {{user}}, I am {{CHAR}}.",
    "mes_example": "<START>",
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=9), children, max_size=3),
    max_leaves=6,
)
FIELDS = [field.name for field in dataclasses.fields(Card)] + ["spec", "spec_version", "data"]
CARDS = st.dictionaries(st.sampled_from(FIELDS), JSON | st.text(max_size=9), max_size=9)


def v2(**data: Any) -> dict[str, Any]:
    return {"spec": "chara_card_v2", "spec_version": "2.0", "data": {**V1, **data}}


def v3(**data: Any) -> dict[str, Any]:
    return {"spec": "chara_card_v3", "spec_version": "3.1", "data": {**V1, **data}}


@pytest.mark.parametrize("document", [V1, v2(), v3()])
def test_kinds_read_alike(document: dict[str, Any]) -> None:
    card = Card.from_json(document)
    assert (card.name, card.personality, card.mes_example) == ("Ada", "Calm", "<START>")
    assert card.raw == document
    assert card.to_json() == document
    assert card.greeting("Bren") == "Hello Bren, I am Ada."
    assert card.instructions("Bren") == "You are Ada. You are a smith. You like Bren. You are calm. You meet Bren."


def test_macros_are_replaced_once() -> None:
    assert Card.from_json(V1).greeting("{{char}}") == "Hello {{char}}, I am Ada."
    assert Card.from_json(v3(nickname="Addie")).greeting("Bren") == "Hello Bren, I am Addie."


def test_a_cards_own_instructions() -> None:
    plain = Card.from_json(V1).instructions("Bren")
    assert Card.from_json(v2(system_prompt="Obey {{user}}.")).instructions("Bren") == f"Obey Bren.\n\n{plain}"
    around = v2(system_prompt="A {{Original}} Z", post_history_instructions="{{original}} Be brief, {{char}}.")
    assert Card.from_json(around).instructions("Bren") == f"A {plain} Z\n\nBe brief, Ada."


def test_secret_and_goals_are_not_told(harrowmere: World) -> None:
    for card in harrowmere.characters:
        assert card.secret not in card.instructions("traveller", place="Harrowmere")


def test_unknown_fields_survive() -> None:
    document = v3(extensions={"other/app": [1]}, character_book={"entries": []}, tags=["a"], alternate_greetings=["Hi"])
    card = Card.from_json(document)
    assert card.alternate_greetings == ("Hi",)
    assert card.extensions == {"other/app": [1]}
    changed = dataclasses.replace(card, name="Eda", personality="").to_json()
    assert changed["data"] == {**document["data"], "name": "Eda", "personality": ""}


def test_long_foreign_cards_keep_more() -> None:
    long = " ".join(f"She has {n} cats." for n in range(200))
    assert len(Card.from_json({**V1, "description": long}).instructions("Bren").split()) > 250


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ([], "must be a JSON object {...}, not a list"),
        ({}, "has no name"),
        ({"name": " \n"}, "has no name"),
        ({"name": 3}, '"name" must be a text, not 3'),
        ({"name": "\ud800"}, "surrogate"),
        ({**V1, "first_mes": ["a"]}, '"first_mes" must be a text, not a list'),
        ({**V1, "tools": "ring"}, '"tools" must be a list of texts'),
        ({**V1, "extensions": [1]}, '"extensions" must be an object'),
        ({"spec": "chara_card_v9", "data": V1}, "says spec 'chara_card_v9'; expected"),
        ({**v3(), "spec_version": "2.0"}, 'expected "3.0"'),
        ({**v3(), "spec_version": "new"}, 'expected "3.0"'),
        ({"spec": "chara_card_v2", "data": []}, '"data" must be an object'),
    ],
)
def test_wrong_cards(document: Any, problem: str) -> None:
    with pytest.raises(CardError) as caught:
        Card.from_json(document, source="card.json")
    assert problem in str(caught.value)
    assert str(caught.value).startswith("card.json")


@given(JSON | CARDS | st.builds(lambda data: {"spec": "chara_card_v2", "data": data}, CARDS))
def test_any_json_is_a_card_or_a_card_error(document: Any) -> None:
    try:
        card = Card.from_json(document)
    except CardError:
        return
    card.greeting("x")
    assert card.instructions("x")
    assert Card.from_json(card.to_json()) == card


@given(name=st.text(min_size=1, max_size=9).filter(str.strip), text=st.text(max_size=40), names=st.lists(st.text()))
def test_cards_survive_a_round_trip(name: str, text: str, names: list[str]) -> None:
    card = Card(name=" ".join(name.split()), role=text, secret=text, knowledge=tuple(names), extensions={"a": text})
    assert Card.from_json(json.loads(json.dumps(card.to_json()))) == card


@pytest.mark.parametrize("spec", ["hettie", "HETTIE", "Hettie Marlpit", "hettie  marlpit", "het", "marl"])
def test_characters_are_found(harrowmere: World, spec: str) -> None:
    assert find_card(spec, harrowmere) is harrowmere.characters[0]


def test_exact_names_come_before_beginnings(hill: World) -> None:
    assert find_card("ada", hill).name == "Ada Fell"
    assert find_card("adam", hill).name == "Adam Stile"


@pytest.mark.parametrize("spec", ["nobody", "", "a\0b", "x" * 9999, "no/such/file.json"])
def test_unknown_characters_are_refused_with_the_known(hill: World, spec: str) -> None:
    with pytest.raises(CardError, match=r"The Hill.*ada, adam"):
        find_card(spec, hill)


def test_ambiguous_beginnings_are_refused(hill: World) -> None:
    with pytest.raises(CardError, match="may be ada, adam"):
        find_card("a", hill)


def test_card_files(hill: World, tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(v2()).encode())
    assert find_card(str(path), hill) == Card.from_json(v2())


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"{", "no valid JSON"),
        (b"[" * 99_999, "no valid JSON"),
        (b"\x89PNG\r\n\x1a\n\xff", "truncated PNG"),
        (b" " * (4 << 20) + b"{}", "larger than 4 MiB"),
        (b"[]", "must be a JSON object"),
    ],
)
def test_bad_card_files(hill: World, tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "card.json"
    path.write_bytes(content)
    with pytest.raises(CardError, match=problem) as caught:
        find_card(str(path), hill)
    assert str(path) in str(caught.value)
