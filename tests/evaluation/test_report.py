import dataclasses
import json
from pathlib import Path

import pytest

from understudy.errors import DataError
from understudy.evaluation.report import ModelFacts, Report, TaskResult, read_report, write_report
from understudy.evaluation.task import Figure


@pytest.fixture
def report() -> Report:
    facts = ModelFacts(
        file="x.gguf", sha256="ab", parameters=10, bits_per_weight=16.0, file_bytes=20, config={"vocab_size": 3},
        formats={"F16": 20},
    )  # fmt: skip
    figure = Figure(name="npc.all", label="lines", value=0.5, unit="share", better="higher", count=4, low=0.1, high=0.9)
    done = TaskResult(task="npc", status="done", figures=(figure,), data={"a": "b"}, files=("t.jsonl",), seconds=1.5)
    skipped = TaskResult(task="books", status="skipped", reason="no data")
    return Report(
        name="x", model=facts, parent=facts, results=(done, skipped), seed=1, limit=None, versions={"numpy": "2"},
        machine={"cores": 2}, created="2026-01-01T00:00:00Z",
    )  # fmt: skip


def test_what_is_written_is_read(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "folder" / "report.json"
    write_report(path, report)
    assert read_report(path) == report
    assert [file.name for file in path.parent.iterdir()] == ["report.json"]
    assert list(report.figures) == ["npc.all"]
    assert report.result("books") is report.results[1]
    assert report.result("x") is None
    document = json.loads(path.read_text("utf-8"))
    assert (document["format"], document["version"]) == ("understudy-evaluation", 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "is no report"),
        ({"version": 9}, "has version 9"),
        ({"results": 3}, "is damaged"),
        ({"model": {}}, "is damaged"),
        ({"extra": 1}, "is damaged"),
    ],
)
def test_foreign_and_damaged_files(report: Report, tmp_path: Path, change: dict, message: str) -> None:
    path = tmp_path / "report.json"
    write_report(path, report)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DataError, match=message):
        read_report(path)


def test_missing_and_torn_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_report(tmp_path / "none.json")
    (tmp_path / "torn.json").write_text('{"format"')
    with pytest.raises(DataError, match="no valid JSON"):
        read_report(tmp_path / "torn.json")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        write_report(tmp_path / "file" / "report.json", _empty())


def test_no_figure_without_a_number(report: Report) -> None:
    with pytest.raises(DataError, match="no finite number"):
        dataclasses.replace(report.figures["npc.all"], value=float("nan"))
    with pytest.raises(DataError, match="must be done or skipped"):
        TaskResult(task="x", status="maybe")


def _empty() -> Report:
    facts = ModelFacts(file="", sha256="", parameters=1, bits_per_weight=1.0, file_bytes=1, config={}, formats={})
    return Report(
        name="", model=facts, parent=None, results=(), seed=0, limit=None, versions={}, machine={}, created=""
    )
