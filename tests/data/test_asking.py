import random
from typing import Any

import pytest

from understudy.data.asking import ask_back
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
        ("Five cups of the cider!", {"brew": "cider", "cups": 5}, "Cider!", "cups"),
        ("The cellar, nine hours.", {"place": "the cellar", "hours": 9}, "The cellar.", "hours"),
        ("Ring it 7 times", {"times": 7}, "Ring it", "times"),
        ("A bed for two nights. My name is Ada Finn.", {"guest": "Ada Finn"}, "A bed for two nights.", "name|who"),
        ("Play it on the lute, bard", {"instrument": "lute"}, "Play it, bard", "instrument"),
        ("Wake me at noon, please", {"when": "noon"}, "Wake me, please", "when"),
        ("lamps out in the old hall", {"room": "old hall"}, "lamps out", "where|place"),
        ("Please weigh my salt bags.", {"goods": "salt bags"}, "Please weigh something.", "what|goods"),
        ("Book it, for Ada, in steel", {"shipMetal": "steel"}, "Book it, for Ada", "ship metal"),
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


@pytest.mark.parametrize(
    ("line", "arguments"),
    [
        ("I'll take on the wolf hunt.", {"quest": "wolf hunt"}),  # no place
        ("I'm here to fish.", {"business": "fish"}),
        ("Give me your hat.", {"item": "hat"}),
        ("Pour five litres oil.", {"liquid": "oil"}),
        ("Ada, I said! To Ada!", {"to": "Ada"}),  # it is told twice
        ("Send two eels to Two Eels.", {"town": "Two Eels", "item": "eels"}),  # the rest would be told no more
    ],
)
def test_what_cannot_be_left_out_stays(line: str, arguments: dict[str, Any]) -> None:
    required = [next(iter(arguments))]
    assert all(ask_back(record(line, required, **arguments), random.Random(seed)) is None for seed in range(5))


def test_a_choice_is_read_out() -> None:
    whole = record("Raise the alarm to red!", ["level"], level="red")
    whole["tools"][0]["function"]["parameters"]["properties"]["level"] = {"enum": ["low", "very_high", "red"]}
    for seed in range(5):
        other = ask_back(whole, random.Random(seed))
        assert other is not None
        assert other["turns"][0]["content"] == "Raise the alarm!"
        assert "low, very high or red?" in other["turns"][1]["content"].lower()


def test_two_things_may_be_missing() -> None:
    whole = record(
        "Three candles to Ada, in blue!", ["n", "to", "colour"], item="candles", n=3, to="Ada", colour="blue"
    )
    questions = set()
    for seed in range(60):
        other = ask_back(whole, random.Random(seed))
        assert other is not None
        first, question, reply = (turn["content"] for turn in other["turns"][:3])
        assert not any(
            is_grounded(value, first.lower()) == is_grounded(value, reply.lower()) for value in ("Ada", "blue", 3)
        )
        questions.add(question.count("?"))
    assert questions == {1, 2}
