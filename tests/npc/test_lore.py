import dataclasses

import pytest

from understudy.npc.card import Card
from understudy.npc.lore import select_lore
from understudy.npc.world import World


def ids(world: World, text: str, **options: object) -> list[str]:
    return [found.entry.id for found in select_lore(world, world.characters[0], text, **options)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Where is the WELL?", ["lore-1"]),
        ("two wells", ["lore-1"]),
        ("the well's rope", ["lore-1"]),
        ("well-being", ["lore-1"]),
        ("farewell", []),
        ("millet", []),
        ("the penny bridge", ["lore-3"]),
        ("the bridge costs a penny", []),
        ("the penny bridges", ["lore-3"]),
        ("water", ["lore-1", "lore-2"]),
        ("water for the mill", ["lore-2", "lore-1"]),
        ("the house", ["lore-3"]),
        ("the of a", []),
        ("fairy", []),  # she does not know it
        ("", []),
    ],
)
def test_what_is_called_up(hill: World, text: str, expected: list[str]) -> None:
    assert ids(hill, text) == expected


def test_reasons_are_given(hill: World) -> None:
    (found,) = select_lore(hill, hill.characters[0], "the toll on the penny bridge")
    assert found.matched_keys == ("penny bridge", "toll")
    assert found.score > select_lore(hill, hill.characters[0], "toll")[0].score


def test_rare_keys_weigh_more(hill: World) -> None:
    scores = {f.entry.id: f.score for f in select_lore(hill, hill.characters[0], "toll, water")}
    assert scores["lore-3"] > scores["lore-1"]


def test_cards_without_knowledge_know_all(hill: World) -> None:
    assert select_lore(hill, hill.characters[1], "fairy")[0].entry.id == "lore-4"


def test_the_past_counts_less(hill: World) -> None:
    assert ids(hill, "and who dug it?", history=["tell me of the well"]) == ["lore-1"]
    assert ids(hill, "the mill?", history=["the toll?", "the well?"]) == ["lore-2", "lore-1", "lore-3"]


def test_limit(hill: World) -> None:
    assert ids(hill, "well, mill, toll", limit=2) == ["lore-1", "lore-2"]
    assert ids(hill, "well", limit=0) == []


def test_no_world_no_lore() -> None:
    assert select_lore(None, Card(name="Ada"), "well") == []


def test_unusable_keys_match_nothing(hill: World) -> None:
    entry = dataclasses.replace(hill.lore[0], keys=("", "?!"), title="")
    world = dataclasses.replace(hill, lore=(entry,))
    assert ids(world, "?! anything") == []


def test_sample_world_answers_its_own_questions(harrowmere: World) -> None:
    hettie = harrowmere.characters[0]
    found = select_lore(harrowmere, hettie, "Were you here the night the lower town flooded, the Great Rise?")
    assert found[0].entry.title == "The Great Rise of 171"
