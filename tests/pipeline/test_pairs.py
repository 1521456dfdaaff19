import random
from itertools import islice
from typing import Any

import pytest

from understudy.npc.model import Model
from understudy.pipeline.pairs import Line, generated_lines, make_pairs, mixed_lines, spoken_lines, wrong_answers

CALL = [{"name": "open_gate", "arguments": {}}]


def record(*turns: tuple[str, str], **more: object) -> dict[str, Any]:
    return {"system": "You are Tam, a smith.", "context": [], "tools": [], **more} | {
        "turns": [{"role": role, "content": text} for role, text in turns]
    }


@pytest.mark.parametrize(
    ("value", "answers", "wrong"),
    [
        ("Three herons", ["It is three herons.", "two pennies", "two pennies", ""], ["two pennies"]),
        ("", ["I don't know.", "Nobody told me.", "It is blue.", "The answer."], ["It is blue."]),
        (None, ["The answer!", "the  answer", "Quite another thing"], ["Quite another thing"]),
    ],
)
def test_what_is_wrong_hangs_on_what_is_known(value: str | None, answers: list[str], wrong: list[str]) -> None:
    line = Line(record=record(("user", "?")), truth="The answer.", value=value)
    assert wrong_answers(line, answers) == wrong


def test_lines_end_before_what_the_character_says_in_words() -> None:
    silent = record(("user", "Open!"))
    silent["turns"].append({"role": "assistant", "tool_calls": CALL})
    talk = record(("user", "Name?"), ("assistant", "Tam."), ("user", "Trade?"), ("assistant", "Smith."))
    lines = list(spoken_lines([silent, talk, {**talk, "tools": [{}]}], random.Random(1)))
    assert len(lines) == 1
    assert lines[0].record["turns"][-1]["role"] == "user"
    assert (lines[0].record["turns"][-1]["content"], lines[0].truth) in (("Name?", "Tam."), ("Trade?", "Smith."))
    assert lines[0].value is None


def test_written_and_generated_lines_come_in_the_shares_asked_for() -> None:
    talk = record(("user", "Name?"), ("assistant", "Tam."))
    lines = list(islice(mixed_lines([talk], seed=3, written_share=0.5), 60))
    assert 18 < sum(line.value is None for line in lines) < 42
    assert all(line.value is not None for line in islice(mixed_lines([], seed=3, written_share=0.5), 10))
    unknown = [line for line in islice(generated_lines(5), 300) if line.value == ""]
    assert 3 < len(unknown) < 60


def test_a_models_mistakes_become_pairs_that_can_be_learnt_from() -> None:
    with Model.load() as model:
        lines = list(islice(generated_lines(11), 16))
        made = list(make_pairs(model, lines, rng=random.Random(2), samples=3, max_prompt_tokens=300))
        again = list(make_pairs(model, lines, rng=random.Random(2), samples=3, max_prompt_tokens=300))
    assert made == again
    pairs = [pair for pair in made if pair]
    assert 0 < len(pairs) < len(made) <= 16
    by_turns = {str(line.record["turns"]): line for line in lines}
    for pair in pairs:
        line = by_turns[str(pair["turns"])]
        assert wrong_answers(line, [pair["rejected"]]) == [pair["rejected"]]
        assert not wrong_answers(line, [pair["chosen"]])
