from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conftest import Run


def test_a_mistake_is_one_sentence(run: "Run", tmp_path: Path) -> None:
    for arguments, words in (
        (("--shape", "gpt"), "nemotron-mini-4b"),
        (("--format", "q2_k", "--layers", "1"), "choose from q4_0"),
        (("--tokenizer", str(tmp_path / "none.json")), "check the path"),
    ):
        result = run("synth", tmp_path / "x.gguf", *arguments)
        assert (result.code, result.out) == (2, "")
        assert words in result.err
    assert list(tmp_path.iterdir()) == []
