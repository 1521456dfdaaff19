import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from understudy.data.dialogues import encode_dialogues
from understudy.data.preferences import keep_last_answers, read_preference_file
from understudy.errors import DataError
from understudy.testing import byte_tokenizer

PAIR: dict[str, Any] = {
    "system": "You are Tam.",
    "turns": [
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Hello, friend."},
        {"role": "user", "content": "What is your name?"},
    ],
    "chosen": "Tam.",
    "rejected": "I am the river.",
}


def written(folder: Path, *records: object) -> Path:
    (folder / "pairs.jsonl").write_text("\n".join(json.dumps(r) for r in records), encoding="utf-8")
    return folder


def test_a_pair_is_two_dialogues_and_only_its_answers_are_learnt(tmp_path: Path) -> None:
    call = {"tool_calls": [{"name": "open_gate", "arguments": {"gate": "north"}}]}
    tools = [{"type": "function", "function": {"name": "open_gate", "parameters": {"type": "object"}}}]
    folder = written(tmp_path, PAIR, {**PAIR, "tools": tools, "chosen": call})
    records = list(read_preference_file("pairs.jsonl", folder))
    assert [r["turns"][-1].get("content") for r in records] == ["Tam.", "I am the river.", None, "I am the river."]
    tokenizer = byte_tokenizer()
    encoded = keep_last_answers(encode_dialogues(records, tokenizer))
    for number, wanted in ((0, "Tam."), (1, "I am the river."), (2, "north")):
        part = slice(encoded.offsets[number], encoded.offsets[number + 1])
        taught = encoded.token_ids[part][encoded.targets[part]]
        text = b"".join(tokenizer.token_bytes(int(i)) for i in taught).decode()
        assert wanted in text and "friend" not in text
        assert np.flatnonzero(encoded.targets[part])[-1] == len(encoded.token_ids[part]) - 1 or wanted in text


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"chosen": "I am the river."}, "'chosen' and 'rejected' are the same answer"),
        ({"rejected": 3}, "'rejected' must be the character's answer"),
        ({"chosen": " "}, "turn 4 is empty"),
        ({"turns": []}, "'turns' must be a list that ends before the character's answer"),
        ({"turns": PAIR["turns"][:2]}, "turns 2 and 3 are both of role 'assistant'"),
        ({"better": "x"}, "unknown field 'better'"),
    ],
)
def test_a_wrong_record_is_named(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    folder = written(tmp_path, PAIR, {**PAIR, **change})
    with pytest.raises(DataError, match=r"pairs\.jsonl, line 2") as caught:
        list(read_preference_file("pairs.jsonl", folder))
    assert told in str(caught.value)


def test_an_empty_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no pair of answers"):
        list(read_preference_file("pairs.jsonl", written(tmp_path)))
