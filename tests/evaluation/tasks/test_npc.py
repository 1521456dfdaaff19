import json

import pytest

from understudy.evaluation.answers import Reply
from understudy.evaluation.checks import LineCheck, judge
from understudy.evaluation.lines import Line
from understudy.evaluation.subject import Subject
from understudy.evaluation.tasks.npc import CharacterLines
from understudy.prompt import Answer, Conversation, ToolCall


def test_two_dialogues_end_to_end(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("understudy.evaluation.tasks.npc._MAX_TOKENS", 12)
    told: list[tuple[int, int]] = []
    outcome = CharacterLines().run(subject, lambda done, total: told.append((done, total)))
    figures = {figure.name: figure for figure in outcome.figures}
    assert told[-1] == (3, 3)
    counts = {name: figure.count for name, figure in figures.items()}
    assert counts == {
        "npc.all": 2, "npc.rag": 2, "npc.facts": 1, "npc.unknown": 1, "npc.unknown_wide": 1, "npc.forbidden": 1,
        "npc.spoke": 3,
    }  # fmt: skip
    rows = [json.loads(line) for line in (subject.output / outcome.files[0]).read_text("utf-8").splitlines()]
    assert [(row["dialogue"], row["turn"], row["is_checked"]) for row in rows] == [
        ("one", 1, True), ("one", 3, True), ("two", 3, False),
    ]  # fmt: skip
    page = (subject.output / outcome.files[1]).read_text("utf-8")
    for words in ("## one (rag)", "- player: What is a knife?", "written: Three herons.", "not checked"):
        assert words in page
    again = CharacterLines().run(subject, lambda done, total: None)
    assert again.figures == outcome.figures


def test_figures_say_what_the_lines_did(monkeypatch: pytest.MonkeyPatch, subject: Subject) -> None:
    from understudy.evaluation.tasks import npc

    said = ["Three herons.", "Beats me.", "Done."]
    calls = [(), (), (ToolCall(name="f", arguments="{}"),)]
    replies = [Reply(answer=Answer(text=t, tool_calls=c), ended_by="stop") for t, c in zip(said, calls, strict=True)]
    monkeypatch.setattr(npc, "answer_all", lambda *_, **__: replies)
    values = {f.name: f.value for f in CharacterLines().run(subject, lambda done, total: None).figures}
    assert values == {
        "npc.all": 0.5, "npc.rag": 0.5, "npc.facts": 1.0, "npc.unknown": 0.0, "npc.unknown_wide": 1.0,
        "npc.forbidden": 1.0, "npc.spoke": 2 / 3,
    }  # fmt: skip
    page = (subject.output / "transcripts" / "npc.md").read_text("utf-8")
    assert "**fails**: lacks don't know / no idea" in page
    assert "[calls f {}]" in page


def test_a_reason_for_every_failure() -> None:
    from understudy.evaluation.tasks.npc import _why

    line = Line(
        dialogue="x", kind="guard", number=1, conversation=Conversation(messages=()), player="?", truth="No.", calls=(),
        check=LineCheck(forbidden=("as an ai",)),
    )  # fmt: skip
    assert line.check is not None
    assert _why(line, judge("As an AI", line.check)) == "**fails**: says as an ai"
    assert _why(line, judge("", line.check)) == "**fails**: says nothing"
    assert _why(line, judge("No.", line.check)) == "passes"
