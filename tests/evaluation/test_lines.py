import json
import shutil
from pathlib import Path

import pytest

from understudy.errors import DataError
from understudy.evaluation.lines import read_evaluation_dialogues, read_lines
from understudy.evaluation.subject import Subject


def test_each_line_follows_the_true_beginning(subject: Subject) -> None:
    lines = read_lines(subject)
    assert [(line.dialogue, line.number, line.truth) for line in lines] == [
        ("one", 1, "Three herons."), ("one", 3, "I don't know."), ("two", 1, ""), ("two", 3, "Done, sleep well."),
    ]  # fmt: skip
    assert [message.content for message in lines[1].conversation.messages] == [
        "You are Ada, a smith.", "What is a knife?", "Three herons.", "And a ship?",
    ]  # fmt: skip
    assert lines[1].player == "And a ship?"
    assert lines[2].calls == ({"name": "rent_room", "arguments": {"nights": 2}},)
    assert lines[2].check is None
    assert lines[2].conversation.tools[0]["function"]["name"] == "rent_room"
    assert lines[3].conversation.messages[-1].role == "tool"


def test_a_limit_takes_dialogues_by_the_seed(model_file: Path, corpora: Path, tmp_path: Path) -> None:
    chosen = {
        read_evaluation_dialogues(Subject(model_file, output=tmp_path, data=corpora, seed=seed, limit=1))[0]["id"]
        for seed in range(8)
    }
    assert chosen == {"one", "two"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"checks": []}, "2 spoken turns and 0 checks"),
        ({"tools": ["fly"]}, "offers the function 'fly'"),
        ({"kind": None}, ""),
    ],
)
def test_damaged_dialogues_are_named(
    corpora: Path, model_file: Path, tmp_path: Path, change: dict, message: str
) -> None:
    shutil.copytree(corpora / "worlds", tmp_path / "worlds")
    path = tmp_path / "worlds" / "cloudmere" / "dialogues.jsonl"
    first, rest = path.read_text().split("\n", 1)
    record = {**json.loads(first), **change}
    if not message:
        del record["kind"]
    path.write_text(json.dumps(record) + "\n" + rest)
    with pytest.raises(DataError, match=message or "lacks kind"):
        read_lines(Subject(model_file, output=tmp_path, data=tmp_path))
