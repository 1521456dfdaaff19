import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from understudy.model.checkpoint import load_model
from understudy.model.published import PUBLISHED_SHAPES

if TYPE_CHECKING:
    from conftest import Run


def test_a_mistake_is_one_sentence(run: "Run", tmp_path: Path) -> None:
    for arguments, words in (
        (("--shape", "gpt"), "nemotron-mini-4b"),
        (("--format", "q2_k", "--layers", "1"), "choose from q4_0"),
        (("--vocabulary", "100"), "larger --vocabulary"),
        (("--tokenizer", str(tmp_path / "none.json")), "check the path"),
    ):
        result = run("synth", tmp_path / "x.gguf", *arguments)
        assert (result.code, result.out) == (2, "")
        assert words in result.err
    assert list(tmp_path.iterdir()) == []


def test_fewer_layers_and_a_smaller_vocabulary(run: "Run", tmp_path: Path) -> None:
    result = run("synth", tmp_path / "x.gguf", "--layers", "1", "--vocabulary", "512", "--format", "q4_0")
    assert result.code == 0, result.err
    config = load_model(tmp_path / "x.gguf").config
    published = PUBLISHED_SHAPES["nemotron-mini-4b"]
    assert config == dataclasses.replace(published, num_hidden_layers=1, vocab_size=512)
