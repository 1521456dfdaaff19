from pathlib import Path

import pytest

from understudy.errors import DataError
from understudy.evaluation.evaluate import REPORT, evaluate
from understudy.evaluation.report import read_report
from understudy.evaluation.tasks.npc import CharacterLines

QUICK = ("size", "zeros", "books", "lines", "kl_books", "kl_lines", "npc", "calls", "fairytaleqa")


def test_a_whole_report(model_file: Path, parent_file: Path, corpora: Path, tmp_path: Path) -> None:
    told: set[str] = set()
    report = evaluate(
        model_file, output=tmp_path, parent=parent_file, data=corpora, tasks=QUICK, seed=3, limit=1,
        progress=lambda task, done, total: told.add(task),
    )  # fmt: skip
    assert read_report(tmp_path / REPORT) == report
    statuses = {result.task: result.status for result in report.results}
    assert {name for name, status in statuses.items() if status == "skipped"} <= {"zeros"}
    assert list(statuses) == list(QUICK)
    assert told >= {"size", "npc", "kl_lines"}
    npc = report.result("npc")
    assert npc is not None
    assert set(npc.data) == {"worlds/cloudmere/dialogues.jsonl", "worlds/cloudmere/tools.json"}
    assert (report.name, report.seed, report.limit) == ("tiny.gguf", 3, 1)
    assert report.parent is not None
    assert report.parent.file == "parent.gguf"


def test_finished_tasks_are_not_run_again(
    model_file: Path, corpora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[int] = []
    run = CharacterLines.run

    def counted(self: CharacterLines, *arguments: object) -> object:
        runs.append(1)
        if len(runs) == 1:
            raise KeyboardInterrupt
        return run(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(CharacterLines, "run", counted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(model_file, output=tmp_path, data=corpora, tasks=("size", "npc"))
    stopped = read_report(tmp_path / REPORT)
    assert [result.task for result in stopped.results] == ["size"]
    first = evaluate(model_file, output=tmp_path, data=corpora, tasks=("size", "npc"))
    assert first.results[0] == stopped.results[0]
    again = evaluate(model_file, output=tmp_path, data=corpora, tasks=("npc",))
    assert (len(runs), again.results) == (2, first.results)
    other = evaluate(model_file, output=tmp_path, data=corpora, tasks=("npc",), limit=1)
    assert (len(runs), len(other.results)) == (3, 1)


def test_what_is_missing_is_said(model_file: Path, tmp_path: Path) -> None:
    report = evaluate(model_file, output=tmp_path, tasks=("size", "npc", "kl_books", "fairytaleqa"))
    reasons = {result.task: result.reason for result in report.results}
    assert reasons["size"] == ""
    assert "worlds/cloudmere/dialogues.jsonl" in reasons["npc"]
    assert "eval/fairytaleqa_val.jsonl" in reasons["fairytaleqa"]
    assert all("--data" in reasons[task] for task in ("npc", "kl_books", "fairytaleqa"))


def test_no_parent_no_divergence(model_file: Path, corpora: Path, tmp_path: Path) -> None:
    (result,) = evaluate(model_file, output=tmp_path, data=corpora, tasks=("kl_books",)).results
    assert (result.status, result.reason) == ("skipped", "there is no parent to compare with: name it with --parent")


def test_a_folder_keeps_to_one_model(model_file: Path, parent_file: Path, tmp_path: Path) -> None:
    evaluate(model_file, output=tmp_path, tasks=("size",))
    with pytest.raises(DataError, match=r"report of another model \(tiny.gguf\)"):
        evaluate(parent_file, output=tmp_path, tasks=("size",))


def test_a_missing_library_is_a_reason(
    model_file: Path, corpora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_: object) -> None:
        raise ModuleNotFoundError("No module named 'zstandard'", name="zstandard")

    monkeypatch.setattr(CharacterLines, "run", run)
    (result,) = evaluate(model_file, output=tmp_path, data=corpora, tasks=("npc",)).results
    assert result.reason == "zstandard is not installed: pip install 'understudy[workshop]'"
