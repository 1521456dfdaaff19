import itertools
import random
from typing import Any

import pytest

from understudy.data.made_calls import ask_back, made_calls
from understudy.data.tool_corpora import is_grounded


def record(line: str, required: list[str], **arguments: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {key: {} for key in arguments}, "required": required}
    function = {"name": "act", "description": "Act.", "parameters": parameters}
    turns = [
        {"role": "user", "content": line},
        {"role": "assistant", "content": "", "tool_calls": [{"name": "act", "arguments": arguments}]},
        {"role": "tool", "content": "{}"},
        {"role": "assistant", "content": "Done."},
    ]
    return {"system": "", "context": [], "tools": [{"type": "function", "function": function}], "turns": turns}


@pytest.mark.parametrize(
    ("line", "arguments", "short", "asked"),
    [
        ("I'd like three candles, please.", {"item": "candles", "n": 3}, "I'd like candles, please.", "many"),
        ("3 candles", {"item": "candles", "n": 3}, "candles", "many"),
        ("Three candles!", {"item": "candles", "n": 3}, "Candles!", "many"),
        ("A room for two nights.", {"nights": 2}, "A room.", "nights"),
        ("Send it to Brookend, quick.", {"town": "Brookend"}, "Send it, quick.", "where|place"),
        ("Run to Ada!", {"to": "Ada"}, "Run!", "whom|who"),
    ],
)
def test_what_is_left_out_is_asked_for(line: str, arguments: dict[str, Any], short: str, asked: str) -> None:
    whole = record(line, list(arguments), **arguments)
    other = ask_back(whole, random.Random(1))
    assert other is not None
    first, question, reply, call = other["turns"][:4]
    assert first == {"role": "user", "content": short}
    assert question["content"].endswith("?")
    assert any(word in question["content"].lower() for word in asked.split("|"))
    assert call == whole["turns"][1]
    said = f"{first['content']} {reply['content']}".lower()
    assert all(is_grounded(value, said) for value in arguments.values())


def test_only_what_is_required_is_asked_for() -> None:
    assert ask_back(record("Three candles!", ["item"], item="candles", n=3), random.Random(1)) is None
    assert ask_back(record("Candles, and make it 3!", ["n"], item="candles", n=3), random.Random(1)) is None
    assert ask_back(record("One candle!", ["n"], item="candle", n=1), random.Random(1)) is None


def test_a_seed_makes_the_same_dialogues() -> None:
    made = list(made_calls(seed=5, count=40))
    assert made == list(made_calls(seed=5, count=40))
    names = {tool["function"]["name"] for one in made for tool in one["tools"]}
    assert len(names) > 40
    for one in made:
        known = {tool["function"]["name"]: tool["function"]["parameters"] for tool in one["tools"]}
        called = [call for turn in one["turns"] for call in turn.get("tool_calls", ())]
        assert all(set(call["arguments"]) <= set(known[call["name"]]["properties"]) for call in called)
        assert all(a["role"] != b["role"] or a["role"] == "tool" for a, b in itertools.pairwise(one["turns"]))
