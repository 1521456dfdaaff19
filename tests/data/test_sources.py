import itertools
import json
from pathlib import Path

import pytest

from understudy.data.dialogues import to_conversation
from understudy.data.sources import DIALOGUE_SOURCES, TEXT_SOURCES, read_dialogues, read_texts
from understudy.errors import DataError
from understudy.prompt import render

ROOT = Path(__file__).parents[2]


def test_plain_questions_are_answered_from_the_prompt() -> None:
    dialogues = list(read_dialogues("worlds_plain", ROOT))
    assert len(dialogues) > 5000
    assert not any("Hettie" in record["system"] for record in dialogues)
    for record in dialogues[::50]:
        assert render(to_conversation(record), add_generation_prompt=False)
        assert 2 <= len(record["turns"]) <= 10


@pytest.mark.parametrize("name", ["worlds", "worlds_as_played", "everyday"])
def test_our_own_dialogues_render(name: str) -> None:
    dialogues = list(read_dialogues(name, ROOT))
    assert len(dialogues) > 1000
    for record in dialogues[::25]:
        assert render(to_conversation(record), add_generation_prompt=False)
    assert any(turn.get("tool_calls") for record in dialogues for turn in record["turns"])


def test_what_is_for_evaluation_is_never_read() -> None:
    for name in ("worlds", "worlds_as_played", "everyday"):
        assert not any(record["id"].startswith("cloudmere") for record in read_dialogues(name, ROOT))


def test_calls_under_other_names() -> None:
    plain = {
        tool["function"]["name"]
        for name in ("worlds", "everyday")
        for r in read_dialogues(name, ROOT)
        for tool in r["tools"]
    }
    dialogues = list(itertools.islice(read_dialogues("worlds_calls", ROOT), 300))
    called = [call["name"] for record in dialogues for turn in record["turns"] for call in turn.get("tool_calls", ())]
    assert 0.15 < sum(name in plain for name in called) / len(called) < 0.6
    for record in dialogues[::20]:
        assert render(to_conversation(record), add_generation_prompt=False)
        assert not record["id"].startswith("cloudmere")


def test_nobody_needs_the_functions_beside_talk() -> None:
    for record in itertools.islice(read_dialogues("worlds_idle", ROOT), 0, 100, 10):
        assert record["tools"]
        assert not any(turn.get("tool_calls") for turn in record["turns"])


def test_as_played_the_system_prompt_is_the_card() -> None:
    record = next(r for r in read_dialogues("worlds_as_played", ROOT) if r.get("character") == "hettie")
    assert record["system"].startswith("You are Hettie Marlpit, innkeeper of the Dry Boot in Harrowmere.")


def test_persona_chat_speaks_to_the_character(tmp_path: Path) -> None:
    (tmp_path / "npc").mkdir()
    talk = {
        "persona1": [],
        "persona2": ["I am a baker.", "My dog is old and I love him."],
        "conversation": [
            {"speaker": "user1", "text": "Hello!"},
            {"speaker": "user2", "text": "Hi. I bake."},
            {"speaker": "user1", "text": "My name is (name)."},
            {"speaker": "user2", "text": "Nice."},
        ],
    }
    (tmp_path / "npc" / "synthetic_persona_chat.jsonl").write_text(json.dumps(talk), encoding="utf-8")
    (record,) = read_dialogues("persona_chat", tmp_path)
    assert record["system"] == "You are a baker. Your dog is old and you love him."
    assert [t["content"] for t in record["turns"]] == ["Hello!", "Hi. I bake."]  # placeholders end it


def test_tales_are_asked_about_with_their_section(tmp_path: Path) -> None:
    (tmp_path / "rag").mkdir()
    tale = {
        "story": "storks",
        "sections": {"1": "A stork sat on the roof.", "2": "It flew away."},
        "qas": [
            {"question": "Where did it sit?", "answers": ["on the roof"], "sections": ["1"]},
            {"question": "Why?", "answers": ["unknown"], "sections": ["1", "2"]},
        ],
    }
    (tmp_path / "rag" / "fairytaleqa_train.jsonl").write_text(json.dumps(tale), encoding="utf-8")
    (record,) = read_dialogues("fairytale_questions", tmp_path)
    assert record["context"] == ["A stork sat on the roof."]
    assert record["turns"][-1]["content"] == "On the roof."
    assert list(read_texts("fairytales", tmp_path)) == ["A stork sat on the roof.\n\nIt flew away."]


def test_unknown_and_missing_sources_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="choose from books"):
        list(read_texts("novels", tmp_path))
    with pytest.raises(DataError, match="choose from everyday"):
        list(read_dialogues("chats", tmp_path))
    for name in TEXT_SOURCES:
        with pytest.raises(DataError, match="is missing"):
            list(read_texts(name, tmp_path))
    for name in DIALOGUE_SOURCES.keys() - {"made_calls"}:  # that reads no file
        with pytest.raises(DataError, match="is missing"):
            list(read_dialogues(name, tmp_path))
