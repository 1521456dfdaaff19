import json
from pathlib import Path
from typing import Any

import pytest

from understudy.data.dialogue_files import hash_dialogue_files, read_dialogue_file
from understudy.errors import DataError

WORLDS = Path(__file__).parents[2] / "worlds"
GOOD: dict[str, Any] = {
    "id": "miller-1",
    "system": "You are Tam, the miller.",
    "context": ["The mill stands still on Sundays."],
    "tools": [{"type": "function", "function": {"name": "grind", "parameters": {}}}],
    "turns": [
        {"role": "user", "content": "Grind this."},
        {"role": "assistant", "content": "", "tool_calls": [{"name": "grind", "arguments": {"sacks": 2}}]},
        {"role": "tool", "content": '{"ok": true}'},
        {"role": "assistant", "content": "Two sacks, done."},
    ],
}


def write(folder: Path, *records: Any) -> Path:
    path = folder / "mine.jsonl"
    path.write_text("\n".join(json.dumps(r) if not isinstance(r, str) else r for r in records), encoding="utf-8")
    return path


def test_good_records_are_read(tmp_path: Path) -> None:
    write(tmp_path, GOOD, "", {"system": "You are Ada.", "turns": GOOD["turns"][:1] + GOOD["turns"][3:]})
    first, second = read_dialogue_file("mine.jsonl", tmp_path)
    assert first == GOOD
    assert second["context"] == second["tools"] == []


@pytest.mark.parametrize("name", ["everyday", "everyday_tools", "harrowmere"])
def test_the_worlds_are_such_files(name: str) -> None:
    records = list(read_dialogue_file(f"{name}/dialogues.jsonl", WORLDS))
    assert len(records) > 130
    assert all(isinstance(tool, dict) for record in records for tool in record["tools"])


def test_the_evaluation_world_is_refused() -> None:
    with pytest.raises(DataError, match=r"dialogues\.jsonl, line 1 .*never be trained on"):
        list(read_dialogue_file("cloudmere/dialogues.jsonl", WORLDS))


def turns(*changes: dict[str, Any]) -> dict[str, Any]:
    return {**GOOD, "turns": list(changes)}


PLAYER, CHARACTER = GOOD["turns"][0], GOOD["turns"][3]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("{", "not JSON"),
        ([1], "expected an object, got list"),
        ({**GOOD, "contexts": []}, "unknown field 'contexts'; a dialogue has context, id"),
        ({**GOOD, "system": " "}, "'system' must be a text"),
        ({**GOOD, "context": "a passage"}, "'context' must be a list of texts"),
        ({**GOOD, "tools": {}}, "'tools' must be a list"),
        ({**GOOD, "tools": ["weigh"]}, "the function 'weigh' is named, but no tools.json"),
        ({**GOOD, "tools": [7]}, "a tool must be a function's schema or its name, got 7"),
        ({**GOOD, "tools": [{"function": {}}]}, "A tool needs a name"),
        ({**GOOD, "turns": [PLAYER]}, "at least two turns"),
        (turns(PLAYER, {"role": "npc", "content": "Aye."}), "turn 2 needs a role of user, assistant, tool"),
        (turns(CHARACTER, PLAYER), "the first turn must be the player's"),
        (turns(PLAYER, CHARACTER, PLAYER), "the last turn must be the character's"),
        (turns(PLAYER, PLAYER, CHARACTER), "turns 1 and 2 are both of role 'user'"),
        (turns(PLAYER, {"role": "tool", "content": "1"}, CHARACTER), "turn 2 is a function's answer"),
        (turns({**PLAYER, "content": ""}, CHARACTER), "turn 1 is empty"),
        (turns({**PLAYER, "content": 3}, CHARACTER), "turn 1: 'content' must be a text, got 3"),
        (turns({**PLAYER, "text": "Hi"}, CHARACTER), "turn 1 has the unknown field 'text'"),
        (turns({**PLAYER, "tool_calls": [{}]}, CHARACTER), "only the character"),
        (
            turns(PLAYER, {**CHARACTER, "tool_calls": [{"name": "grind", "arguments": "{}"}]}),
            "turn 2: each of tool_calls",
        ),
        (turns(PLAYER, {**CHARACTER, "content": "\ud800"}), "half of a UTF-16 surrogate pair"),
    ],
)
def test_a_fault_is_named_with_its_line(tmp_path: Path, record: Any, message: str) -> None:
    path = write(tmp_path, GOOD, "", record)
    with pytest.raises(DataError) as error:
        list(read_dialogue_file("mine.jsonl", tmp_path))
    assert str(error.value).startswith(f"{path}, line 3") and message in str(error.value)


def test_functions_may_stand_beside_the_file(tmp_path: Path) -> None:
    write(tmp_path, {**GOOD, "tools": ["grind"]})
    (tmp_path / "tools.json").write_text(json.dumps(GOOD["tools"]), encoding="utf-8")
    assert next(read_dialogue_file("mine.jsonl", tmp_path)) == GOOD
    (tmp_path / "tools.json").write_text('{"grind": 1}', encoding="utf-8")
    with pytest.raises(DataError, match=r"tools\.json: expected a list"):
        next(read_dialogue_file("mine.jsonl", tmp_path))


def test_missing_empty_and_outside_files(tmp_path: Path) -> None:
    inner = tmp_path / "corpora"
    inner.mkdir()
    write(tmp_path, GOOD)
    for name in ("../mine.jsonl", str(tmp_path / "mine.jsonl"), ""):
        with pytest.raises(DataError, match="must lie in the folder"):
            list(read_dialogue_file(name, inner))
    with pytest.raises(DataError, match="is missing"):
        list(read_dialogue_file("mine.jsonl", inner))
    (inner / "mine.jsonl").write_text("\n", encoding="utf-8")
    with pytest.raises(DataError, match="holds no dialogue"):
        list(read_dialogue_file("mine.jsonl", inner))


def test_the_hash_follows_the_content(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    first = hash_dialogue_files(["mine.jsonl"], tmp_path)
    assert first == hash_dialogue_files(["mine.jsonl"], tmp_path)
    (tmp_path / "tools.json").write_text("[]", encoding="utf-8")
    second = hash_dialogue_files(["mine.jsonl"], tmp_path)
    write(tmp_path, GOOD, GOOD)
    assert len({first, second, hash_dialogue_files(["mine.jsonl"], tmp_path)}) == 3
