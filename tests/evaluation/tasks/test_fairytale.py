import json
from pathlib import Path

import pytest

from understudy.errors import DataError
from understudy.evaluation.answers import Reply
from understudy.evaluation.subject import Subject
from understudy.evaluation.tasks import fairytale
from understudy.evaluation.tasks.fairytale import FairytaleQuestions
from understudy.prompt import Answer


def test_questions_see_their_sections(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def answer_all(_: object, prompts: list, **__: object) -> list[Reply]:
        asked.extend(prompts)
        return [Reply(answer=Answer(text=text), ended_by="stop") for text in ("The wall.", "She sat")]

    monkeypatch.setattr(fairytale, "answer_all", answer_all)
    outcome = FairytaleQuestions().run(subject, lambda done, total: None)
    assert [prompt.contexts for prompt in asked] == [
        ("A hen sat on a wall. She was red.",), ("A hen sat on a wall. She was red.", "Then she flew."),
    ]  # fmt: skip
    exact, f1 = outcome.figures
    assert (exact.value, f1.value, f1.count) == (0.5, 0.5, 2)
    row = json.loads((subject.output / outcome.files[0]).read_text("utf-8").splitlines()[0])
    assert (row["answer"], row["exact"], row["f1"]) == ("The wall.", True, 1.0)


def test_a_random_model_end_to_end(subject: Subject) -> None:
    exact, f1 = FairytaleQuestions().run(subject, lambda done, total: None).figures
    assert (exact.value, exact.count) == (0.0, 2)
    assert 0 <= f1.value < 0.5


def test_a_damaged_tale_is_named(model_file: Path, tmp_path: Path) -> None:
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "fairytaleqa_val.jsonl").write_text('{"story": "x", "sections": {}}')
    with pytest.raises(DataError, match="a tale lacks 'qas'"):
        FairytaleQuestions().run(Subject(model_file, output=tmp_path, data=tmp_path), lambda done, total: None)
