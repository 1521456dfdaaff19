import json

from understudy.evaluation.answers import answer_all, write_transcript
from understudy.evaluation.subject import Subject
from understudy.prompt import Conversation, Message


def say(text: str) -> Conversation:
    return Conversation(messages=(Message(role="user", content=text),))


def test_answers_are_those_of_one_at_a_time(subject: Subject) -> None:
    told: list[tuple[int, int]] = []
    lines = [say(text) for text in ("Hello?", "What is it?", "long " * 2000, "And now?")]
    with subject.talking() as model:
        replies = answer_all(model, lines, max_tokens=6, progress=lambda done, total: told.append((done, total)))
        alone = answer_all(model, lines[3:], max_tokens=6, progress=lambda done, total: None)
    assert [reply.ended_by for reply in replies if reply.ended_by == "too_long"] == ["too_long"]
    assert replies[2].answer.text == ""
    assert replies[3] == alone[0]
    assert told[-1] == (4, 4)


def test_transcripts_are_lines_of_json(subject: Subject) -> None:
    files = write_transcript(subject, "x", [{"a": "é"}, {"a": 2}], "# Text\n")
    assert files == ("transcripts/x.jsonl", "transcripts/x.md")
    rows = (subject.output / files[0]).read_text("utf-8").splitlines()
    assert list(map(json.loads, rows)) == [{"a": "é"}, {"a": 2}]
    assert sorted(path.name for path in (subject.output / "transcripts").iterdir()) == ["x.jsonl", "x.md"]
