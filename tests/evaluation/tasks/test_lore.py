import json

import pytest

from understudy.evaluation.answers import Reply
from understudy.evaluation.subject import Subject
from understudy.evaluation.tasks import lore
from understudy.evaluation.tasks.lore import LoreQuestions
from understudy.prompt import Answer


def test_with_the_right_passages_the_found_ones_and_none(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    said = ["Three herons.", "Beats me."]
    seen: list[tuple[str, ...]] = []

    def answer(_model: object, conversations: list, **_options: object) -> list[Reply]:
        seen.extend(conversation.contexts for conversation in conversations)
        return [Reply(answer=Answer(text=text), ended_by="stop") for text in said * 3]

    monkeypatch.setattr(lore, "answer_all", answer)
    outcome = LoreQuestions().run(subject, lambda done, total: None)
    given, found = ("A knife costs three herons.",), ("Ada's knife: three herons.",)
    assert seen == [given, given, found, found, (), ()]  # the second line is asked together with the first
    values = {figure.name: (figure.value, figure.count) for figure in outcome.figures}
    assert values == {
        f"lore.{mode}{key}": value
        for mode, there in (("given", 1.0), ("found", 1.0), ("none", 0.0))
        for key, value in {"": (0.5, 2), "_facts": (1.0, 1), "_there": (there, 1), "_unknown": (1.0, 1)}.items()
    }
    rows = [json.loads(row) for row in (subject.output / outcome.files[0]).read_text("utf-8").splitlines()]
    assert [row["mode"] for row in rows] == ["given", "given", "found", "found", "none", "none"]


def test_a_random_model(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lore, "_MAX_TOKENS", 4)
    outcome = LoreQuestions().run(subject, lambda done, total: None)
    assert {figure.value for figure in outcome.figures if figure.name.endswith("_facts")} == {0.0}
