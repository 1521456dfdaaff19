import json
from pathlib import Path
from typing import Any

import pytest

from understudy.errors import ContextLengthError, SaveError
from understudy.npc.card import Card
from understudy.npc.session import Session
from understudy.npc.world import World
from understudy.prompt import Conversation


def count(conversation: Conversation) -> int:
    """One token a word; the system prompt is free."""
    texts = [m.content for m in conversation.messages if m.role != "system"] + list(conversation.contexts)
    return sum(len(text.split()) for text in texts)


def contents(conversation: Conversation) -> list[str]:
    return [message.content for message in conversation.messages[1:]]


@pytest.fixture
def session(hill: World) -> Session:
    return Session(hill.characters[0], hill, "Bren")


def test_first_line(session: Session) -> None:
    conversation = session.conversation("Hello", max_prompt_tokens=99, count=count)
    assert [m.role for m in conversation.messages] == ["system", "user"]
    assert conversation.messages[0].content == "You are Ada Fell, smith in the Hill."
    assert conversation.contexts == ()
    assert session.history == []


def test_lore_comes_as_contexts(session: Session) -> None:
    conversation = session.conversation("Whose is the well?", max_prompt_tokens=99, count=count)
    assert conversation.contexts == ("Text 1.",)
    assert session.last_lore[0].matched_keys == ("well",)
    session.commit("Whose is the well?", "Mine.")
    assert session.conversation("Since when?", max_prompt_tokens=99, count=count).contexts == ("Text 1.",)


def test_history_is_carried(session: Session) -> None:
    session.commit("Hello", "Good day")
    conversation = session.conversation("And you?", max_prompt_tokens=99, count=count)
    assert [m.role for m in conversation.messages] == ["system", "user", "assistant", "user"]
    assert contents(conversation) == ["Hello", "Good day", "And you?"]
    session.reset()
    assert contents(session.conversation("Hello", max_prompt_tokens=99, count=count)) == ["Hello"]


@pytest.mark.parametrize("budget", range(1, 25))
def test_the_oldest_pairs_go_first(session: Session, budget: int) -> None:
    for n in range(10):
        session.commit(f"q{n}", f"a{n}")
    kept = contents(session.conversation("now", max_prompt_tokens=budget, count=count))
    pairs = min(10, (budget - 1) // 2)
    assert kept == [text for n in range(10 - pairs, 10) for text in (f"q{n}", f"a{n}")] + ["now"]


def test_lore_goes_after_the_history(session: Session) -> None:
    session.commit("q", "a")
    line = "well, mill"
    assert len(session.conversation(line, max_prompt_tokens=8, count=count).contexts) == 2
    tight = session.conversation(line, max_prompt_tokens=6, count=count)
    assert (contents(tight), tight.contexts) == ([line], ("Text 1.", "Text 2."))
    tighter = session.conversation(line, max_prompt_tokens=5, count=count)
    assert (contents(tighter), tighter.contexts) == ([line], ("Text 1.",))
    assert len(session.last_lore) == 1


def test_a_line_that_does_not_fit_is_refused(session: Session) -> None:
    session.commit("q", "a")
    with pytest.raises(ContextLengthError) as caught:
        session.conversation("the well " * 50, max_prompt_tokens=99, count=count)
    assert (caught.value.num_prompt_tokens, caught.value.max_tokens) == (100, 99)
    assert len(session.history) == 2


def test_foreign_cards_have_no_place(hill: World) -> None:
    conversation = Session(Card(name="Eve"), hill).conversation("Hello", max_prompt_tokens=99, count=count)
    assert conversation.messages[0].content == "You are Eve."


def test_saved_and_loaded(session: Session, hill: World, tmp_path: Path) -> None:
    session.commit("Grüße \ud83d", "Good “day”\n")
    path = tmp_path / "evening.json"
    session.save(path)
    session.save(path)
    again = Session.load(path, world=hill)
    assert (again.card, again.world, again.player) == (session.card, hill, "Bren")
    assert again.history == session.history
    assert list(tmp_path.iterdir()) == [path]


def test_sample_world_survives(harrowmere: World, tmp_path: Path) -> None:
    for card in harrowmere.characters:
        Session(card, harrowmere).save(tmp_path / "one.json")
        assert Session.load(tmp_path / "one.json", world=harrowmere).card == card


def test_unwritable_places(session: Session, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "no" / "where.json", tmp_path / "folder", tmp_path / "a\0b"):
        with pytest.raises(SaveError, match="Cannot save to"):
            session.save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_unreadable_places(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path, tmp_path / "a\0b"):
        with pytest.raises(SaveError, match="Cannot read"):
            Session.load(path)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"format": "other"}, "is no saved conversation"),
        ({"version": 3}, "has version 3"),
        ({"version": "1"}, "has version '1'"),
        ({"world": "elsewhere"}, "was saved in the world 'elsewhere'"),
        ({"player": None}, "is damaged"),
        ({"history": {}}, "is damaged"),
        ({"history": [{"role": "user", "content": "a"}]}, "its last line has no answer"),
        ({"history": [{"role": "assistant", "content": "a"}]}, 'line 1 of "history" must have role "user"'),
        ({"history": [{"role": "user", "content": 1}]}, 'line 1 of "history"'),
        ({"card": {"name": ""}}, "has no name"),
        ({"card": None}, "is damaged"),
    ],
)
def test_wrong_saves(session: Session, hill: World, tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    path = tmp_path / "save.json"
    session.save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(SaveError, match=problem) as caught:
        Session.load(path, world=hill)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 99_999])
def test_broken_saves(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "save.json"
    path.write_bytes(content)
    with pytest.raises(SaveError, match=r"no valid JSON|no saved conversation"):
        Session.load(path)
