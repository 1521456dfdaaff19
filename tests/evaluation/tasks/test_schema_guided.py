import json
from pathlib import Path

import pytest

from understudy.errors import DataError
from understudy.evaluation.subject import Subject
from understudy.evaluation.tasks.schema_guided import SchemaGuidedCalls

PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Ely", "Ayr"]},
        "seats": {"type": "string", "enum": ["1", "2"], "default": "1"},
    },
    "required": ["city"],
}
SERVICE = {
    "service_description": "Book a bus",
    "tools": [{"name": "FindBus", "description": "Find it", "parameters": PARAMETERS, "returns": ["fare"]}],
}
CALL = {"name": "FindBus", "arguments": {"city": "Ely", "seats": "2"}, "service": "Bus_1"}
DIALOGUE = {
    "id": "a",
    "services": ["Bus_1"],
    "messages": [
        {"role": "user", "content": "A bus for two."},
        {"role": "assistant", "content": "Where to?"},
        {"role": "user", "content": "To Ely."},
        {"role": "assistant", "calls": [CALL]},
        {"role": "tool", "name": "FindBus", "content": [{"fare": "3"}, {"fare": "4"}], "n_results": 2},
        {"role": "assistant", "content": "It is 3."},
        {"role": "user", "content": "Thanks."},
        {"role": "assistant", "content": "Bye."},
    ],
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "fc").mkdir()
    (tmp_path / "fc" / "sgd_tools.json").write_text(json.dumps({"dev": {"Bus_1": SERVICE}}))
    (tmp_path / "fc" / "sgd_dev.jsonl").write_text(json.dumps(DIALOGUE) + "\n")
    return tmp_path


def test_each_kind_of_turn_is_counted(model_file: Path, data: Path, tmp_path: Path) -> None:
    outcome = SchemaGuidedCalls().run(Subject(model_file, output=tmp_path, data=data), lambda done, total: None)
    figures = {figure.name: (figure.value, figure.count) for figure in outcome.figures}
    assert [
        figures[f"sgd.{mode}{key}"][1] for mode in ("", "held_") for key in ("exact", "question", "after", "abstains")
    ] == [1] * 8
    assert figures["sgd.told_name"] == figures["sgd.told_valid"] == (1.0, 1)
    assert figures["sgd.told_values"][1] == 2
    assert outcome.settings["lines"] == 4


def test_other_forms_are_refused(model_file: Path, data: Path, tmp_path: Path) -> None:
    (data / "fc" / "sgd_tools.json").write_text(json.dumps({"dev": {}}))
    with pytest.raises(DataError, match="has another form"):
        SchemaGuidedCalls().run(Subject(model_file, output=tmp_path, data=data), lambda done, total: None)
