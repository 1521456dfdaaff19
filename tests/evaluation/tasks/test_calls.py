from typing import Any

import pytest

from understudy.evaluation.answers import Reply
from understudy.evaluation.subject import Subject
from understudy.evaluation.tasks import calls
from understudy.evaluation.tasks.calls import FunctionCalls, same_calls, same_json, same_names
from understudy.prompt import Answer, ToolCall


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


def test_a_random_model_calls_nothing_right(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "_MAX_TOKENS", 12)
    outcome = FunctionCalls().run(subject, lambda done, total: None)
    figures = {figure.name: (figure.value, figure.count) for figure in outcome.figures}
    assert figures["calls.exact"] == (0.0, 1)
    assert figures["calls.unasked"][1] == 1
    assert outcome.settings["lines"] == 2


def test_asked_and_unasked_calls(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    call = ToolCall(name="rent_room", arguments='{"nights": 2}')
    reply = Reply(answer=Answer(text="", tool_calls=(call,)), ended_by="stop")
    monkeypatch.setattr(calls, "answer_all", lambda *_, **__: [reply, reply])
    values = {f.name: f.value for f in FunctionCalls().run(subject, lambda done, total: None).figures}
    assert values == {"calls.any": 1.0, "calls.name": 1.0, "calls.exact": 1.0, "calls.unasked": 1.0}
