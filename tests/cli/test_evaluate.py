from pathlib import Path
from typing import TYPE_CHECKING

from understudy.evaluation.report import read_report

if TYPE_CHECKING:
    from conftest import Run


def test_a_table_a_card_and_what_was_skipped(run: "Run", model_file: Path, tmp_path: Path) -> None:
    output = tmp_path / "first"
    result = run("evaluate", model_file, "--tasks", "size, npc", "--output", output, "--name", "before")
    assert result.code == 0
    for words in ("before", "parameters", "bits a weight", "npc skipped: its data are missing"):
        assert words in result.out
    assert {"report.json", "card.md", "comparison.md"} <= {path.name for path in output.iterdir()}
    assert read_report(output / "report.json").name == "before"
    again = run(
        "evaluate", model_file, "--tasks", "size", "--output", tmp_path / "second", "--name", "after",
        "--against", output / "report.json",
    )  # fmt: skip
    assert again.code == 0
    assert "| figure | before | after |" in (tmp_path / "second" / "comparison.md").read_text("utf-8")
    assert "- **before**: " in (tmp_path / "second" / "card.md").read_text("utf-8")


def test_mistakes_are_one_sentence(run: "Run", model_file: Path, tmp_path: Path) -> None:
    for arguments, words in (
        ((model_file, "--tasks", "blimp"), "There is no evaluation task 'blimp'"),
        ((tmp_path / "x.gguf",), "There is no model at"),
        ((model_file, "--data", tmp_path / "none"), "There is no data folder"),
        ((model_file, "--against", tmp_path / "none.json"), "cannot be read"),
    ):
        result = run("evaluate", *arguments, "--output", tmp_path / "out")
        assert (result.code, result.out) == (2, "")
        assert words in result.err
