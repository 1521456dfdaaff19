import dataclasses
from typing import Any

import pytest

from understudy.evaluation.answers import Reply
from understudy.evaluation.calling import Played, call_figures, same_calls, same_json, same_names
from understudy.evaluation.checks import LineCheck
from understudy.evaluation.lines import Line
from understudy.prompt import Conversation, Message, ToolCall, parse_answer


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (1, 1.0, True),
        (1, True, False),
        (0, False, False),
        (True, True, True),
        ("1", 1, False),
        ({"a": 1, "b": [2]}, {"b": [2.0], "a": 1}, True),
        ({"a": 1}, {"a": 1, "b": None}, False),
        ([1, 2], [2, 1], False),
        ([1], [1, 1], False),
        ({"a": True}, {"a": 1}, False),
        (None, None, True),
        ("Ada", "ada", False),
    ],
)
def test_json_equality(one: Any, other: Any, same: bool) -> None:
    assert same_json(one, other) is same
    assert same_json(other, one) is same


def test_calls_in_any_order() -> None:
    truth = [{"name": "a", "arguments": {"x": 1}}, {"name": "b", "arguments": {}}]
    a, b = ToolCall(name="a", arguments='{"x": 1.0}'), ToolCall(name="b", arguments="")
    assert same_calls(truth, [b, a])
    assert same_names(truth, [b, a])
    assert not same_calls(truth, [a])
    assert not same_calls(truth, [a, b, b])
    wrong = ToolCall(name="a", arguments='{"x": 2}')
    assert same_names(truth, [wrong, b])
    assert not same_calls(truth, [wrong, b])


LINE = Line(
    dialogue="d",
    kind="tool",
    number=1,
    conversation=Conversation(messages=(Message(role="user", content="A bed!"),)),
    player="A bed!",
    truth="How many nights?",
    calls=(),
    check=LineCheck(facts=(("how many",),)),
    is_question=True,
)
CALLS = (
    {"name": "rent", "arguments": {"room": "river", "nights": 2}},
    {"name": "rent", "arguments": {"room": "common", "nights": 2}},
)
RESULT = Conversation(messages=(Message(role="tool", content="{}"),))


def values(line: Line, raw: str, *, ended_by: str = "stop") -> dict[str, float]:
    opened = "<toolcall>" in raw
    played = Played(
        line=line,
        mode="free",
        reply=Reply(answer=parse_answer(raw), ended_by=ended_by, raw=raw),
        is_opened=opened,
        is_valid=False,
    )
    return {figure.name.removeprefix("x."): figure.value for figure in call_figures("x", "x", [played])}


def test_a_question_back() -> None:
    assert values(LINE, "How many nights?") == {"unasked": 0, "question": 1, "question_right": 1}
    assert values(LINE, "Why?") == {"unasked": 0, "question": 1, "question_right": 0}
    assert values(LINE, "How many nights!")["question"] == 0
    broken = values(LINE, '<toolcall> {"name": "rent", "argu', ended_by="length")
    assert broken == {"cut": 1, "unasked": 1, "question": 0, "question_right": 0}


def test_words_that_are_due() -> None:
    talk = dataclasses.replace(LINE, is_question=False)
    assert values(talk, "Good evening!") == {"unasked": 0, "abstains": 1}
    assert values(dataclasses.replace(talk, conversation=RESULT), "Done.") == {"unasked": 0, "after": 1}


def test_arguments_one_by_one() -> None:
    due = dataclasses.replace(LINE, calls=CALLS, is_question=False)
    raw = '<toolcall> {"name": "rent", "arguments": {"room": "river", "nights": 3}} </toolcall>'
    assert values(due, raw) == {"any": 1, "name": 0, "values": 0.25, "exact": 0, "valid": 0, "cut": 0}
    assert values(due, "No.") == {"any": 0, "name": 0, "values": 0, "exact": 0}
