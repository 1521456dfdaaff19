import json
from pathlib import Path
from typing import TYPE_CHECKING

from understudy.data.preferences import read_preference_file

if TYPE_CHECKING:
    from conftest import Run

RECORD = {
    "system": "You are Tam, who keeps bees.",
    "turns": [{"role": "user", "content": "Name?"}, {"role": "assistant", "content": "Tam, and what of it?"}],
}


def test_mistakes_are_written_as_a_recipe_reads_them(run: "Run", tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text(json.dumps(RECORD), encoding="utf-8")
    output = tmp_path / "made" / "pairs.jsonl"
    result = run("pairs", output, "--data", tmp_path, "--own", "own.jsonl", "--count", "12", "--samples", "2")
    assert result.code == 0, result.err
    records = list(read_preference_file("made/pairs.jsonl", tmp_path))
    assert f"{len(records) // 2} pairs of 12 lines" in result.err
    assert not output.with_name("pairs.jsonl.part").exists()


def test_corpora_need_their_folder(run: "Run", tmp_path: Path) -> None:
    result = run("pairs", tmp_path / "x.jsonl", "--corpora", "worlds")
    assert result.code == 2 and "--data FOLDER" in result.err
