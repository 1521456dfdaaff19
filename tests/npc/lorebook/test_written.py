"""Lorebooks made in code: what is written is read again as the same."""

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import pytest

from understudy.errors import CardError
from understudy.npc.card import Card
from understudy.npc.lorebook import Logic, Lorebook, LorebookEntry, Position, ScanSettings, scan_lorebooks
from understudy.npc.lorebook.decorators import Decorators
from understudy.npc.lorebook.state import LoreState
from understudy.prompt import Message

WORDS = ("well", "deep water", "龍", "Été", "a/b", "(x)", "{{char}}")
TEXTS = ("", "Plain.", 'Two\nlines: "quoted" 龍', "trailing \n", "{{user}} // \\ \t")


def _some(chance: random.Random, most: int = 2) -> tuple[str, ...]:
    return tuple(chance.sample(WORDS, chance.randint(0, most)))


def _decorators(chance: random.Random) -> Decorators:
    values = {
        "activate": True,
        "activate_only_after": chance.randint(0, 9),
        "activate_only_every": chance.randint(1, 9),
        "keep_activate_after_match": True,
        "is_greeting": chance.randint(0, 2),
        "ignore_on_max_context": True,
        "additional_keys": ("one", "two words"),
        "exclude_keys": ("three",),
        "is_user_icon": "hat",
        "disable_ui_prompt": "system_prompt",
        "ignored": ("@@unheard_of 3", "@@@nor_this"),
    }
    return Decorators(**{name: values[name] for name in chance.sample(sorted(values), chance.randint(0, 4))})


def _entry(chance: random.Random, number: int) -> LorebookEntry:
    count, flag = lambda: chance.choice((0, 0, 1, 7)), lambda: chance.choice((None, False, True))
    return LorebookEntry(
        id=f"{chance.choice(WORDS)} {number}",
        title=chance.choice(TEXTS),
        keys=_some(chance),
        secondary_keys=_some(chance),
        content=chance.choice(TEXTS),
        is_enabled=chance.random() < 0.5,
        is_constant=chance.random() < 0.5,
        is_selective=chance.random() < 0.5,
        logic=chance.choice(tuple(Logic)),
        uses_regex=chance.random() < 0.3,
        order=chance.choice((-5, 0, 100, 7.25)),
        priority=chance.choice((None, 0, 3)),
        position=chance.choice(tuple(Position)),
        depth=chance.randint(0, 9),
        role=chance.choice(("system", "user", "assistant")),
        case_sensitive=flag(),
        whole_words=flag(),
        scan_depth=chance.choice((None, 0, 3)),
        probability=chance.choice((100, 0, 33.5)),
        groups=chance.choice(((), ("g",), ("g", "h i"))),
        has_group_priority=chance.random() < 0.5,
        group_weight=chance.choice((100, 0, 7)),
        uses_group_scoring=flag(),
        sticky=count(),
        cooldown=count(),
        delay=count(),
        exclude_recursion=chance.random() < 0.5,
        prevent_recursion=chance.random() < 0.5,
        recursion_level=count(),
        decorators=_decorators(chance),
    )


@pytest.mark.parametrize("seed", range(40))
def test_what_is_written_is_read_again(seed: int) -> None:
    chance = random.Random(seed)
    book = Lorebook(
        name=chance.choice(TEXTS),
        scan_depth=chance.choice((None, 0, 5)),
        token_budget=chance.choice((None, 0, 500)),
        is_recursive=chance.choice((None, False, True)),
        entries=tuple(_entry(chance, number) for number in range(chance.randint(0, 6))),
    )
    document = json.loads(json.dumps(book.to_json()))
    again = Lorebook.from_json(document)
    assert (again, again.to_json()) == (book, document)
    assert [entry.fingerprint for entry in again.entries] == [entry.fingerprint for entry in book.entries]
    card = Card(name="Ada", lorebook=book).to_json()
    assert Card.from_json(card).lorebook == book
    assert "spec" not in card.get("data", card)["character_book"]


def test_a_book_that_a_game_writes(tmp_path: Path) -> None:
    dawn = LorebookEntry(id="dawn", keys=("ferry",), content="The ferry leaves at dawn.", sticky=3)
    book = Lorebook(name="ferry", entries=(dawn, LorebookEntry(id="all", is_constant=True, content="It rains.")))
    path = tmp_path / "ferry.json"
    book.save(path)
    assert (Lorebook.load(path), json.loads(path.read_text())["spec"]) == (book, "lorebook_v3")
    said = [Message(role="user", content="When does the ferry leave?")]
    scan = scan_lorebooks(
        [Lorebook.load(path)], said, LoreState(), count=len, char="A", user="B", seed=1, settings=ScanSettings()
    )
    assert {outcome.text for outcome in scan.chosen} == {"The ferry leaves at dawn.", "It rains."}
    changed = dataclasses.replace(Lorebook.load(path), name="boat", raw={})
    changed.save(path)
    assert Lorebook.load(path) == changed


@pytest.mark.parametrize(
    "entries",
    [
        [{"id": "a"}, {"id": "a"}],
        [{"id": ""}],
        [{"id": "a", "content": "@@activate\nsecret"}],
        [{"id": "a", "decorators": Decorators(depth=2)}],
        [{"id": "a", "groups": ("one, two",)}],
        [{"id": "a", "role": "narrator"}],
    ],
)
def test_what_no_file_can_say_is_refused(entries: list[dict[str, Any]], tmp_path: Path) -> None:
    book = Lorebook(name="odd", entries=tuple(LorebookEntry(**entry) for entry in entries))
    with pytest.raises(CardError, match=f"its entry {entries[-1]['id']!r} would be read as something else"):
        book.save(tmp_path / "odd.json")
    with pytest.raises(CardError, match="must be a number"):
        Lorebook(entries=(LorebookEntry(id="a", order=float("nan")),)).to_json()
    with pytest.raises(CardError, match="Cannot save to"):
        Lorebook(name="x").save(tmp_path / "no" / "x.json")
    assert list(tmp_path.iterdir()) == []
