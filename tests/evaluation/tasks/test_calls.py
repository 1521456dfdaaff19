import json

import pytest

from understudy.evaluation import calling
from understudy.evaluation.answers import Reply
from understudy.evaluation.subject import Subject
from understudy.evaluation.tasks import calls
from understudy.evaluation.tasks.calls import FunctionCalls
from understudy.prompt import parse_answer


def test_a_random_model_calls_nothing_right(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "_MAX_TOKENS", 12)
    outcome = FunctionCalls().run(subject, lambda done, total: None)
    figures = {figure.name: (figure.value, figure.count) for figure in outcome.figures}
    assert figures["calls.exact"] == (0.0, 1)
    assert figures["calls.unasked"][1] == 1
    assert outcome.settings["lines"] == 2


def test_a_model_told_to_call_calls(subject: Subject) -> None:
    outcome = FunctionCalls().run(subject, lambda done, total: None)
    values = {figure.name: figure.value for figure in outcome.figures}
    assert values["calls.told_name"] == values["calls.told_valid"] == 1.0  # there is one function, and a grammar
    rows = [json.loads(row) for row in (subject.output / outcome.files[0]).read_text().splitlines()]
    assert [(row["mode"], row["turn"]) for row in rows] == [
        ("free", 1), ("held", 1), ("told", 1), ("free", 3), ("held", 3),
    ]  # fmt: skip
    assert rows[2]["calls"][0]["name"] == "rent_room"
    assert isinstance(json.loads(rows[2]["calls"][0]["arguments"])["nights"], int)


def test_asked_and_unasked_calls(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    text = '<toolcall> {"name": "rent_room", "arguments": {"nights": 2}} </toolcall>'
    reply = Reply(answer=parse_answer(text), ended_by="stop", raw=text)
    monkeypatch.setattr(calling, "answer_all", lambda _, plan, **__: [reply] * len(plan))
    values = {f.name: f.value for f in FunctionCalls().run(subject, lambda done, total: None).figures}
    due = {"any": 1.0, "name": 1.0, "values": 1.0, "exact": 1.0, "valid": 1.0, "cut": 0.0}
    words = {"unasked": 1.0, "after": 0.0}
    assert values == {
        f"calls.{mode}{key}": value for mode in ("", "held_") for key, value in {**due, **words}.items()
    } | {f"calls.told_{key}": value for key, value in due.items()}
