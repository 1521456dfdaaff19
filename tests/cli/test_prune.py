import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from understudy.model.checkpoint import load_model

if TYPE_CHECKING:
    from conftest import Run

SIZES = ("--hidden-size", 32, "--intermediate-size", 64, "--heads", 2, "--layers", 1)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("The ferry crosses at dawn, the ferryman says. " * 60, encoding="utf-8")
    return path


def test_a_smaller_model_says_how_it_was_made(run: "Run", model_file: Path, text: Path, tmp_path: Path) -> None:
    importance = tmp_path / "importance.safetensors"
    options = ("--calibration", text, "--samples", 4, "--importance", importance, *SIZES)
    result = run("prune", model_file, tmp_path / "small", *options)
    assert (result.code, result.out) == (0, "")
    assert "importance" in result.err
    small = load_model(tmp_path / "small")
    sizes = (small.config.hidden_size, small.config.intermediate_size, small.config.num_hidden_layers)
    assert sizes == (32, 64, 1)
    assert (small.config.num_attention_heads, small.config.num_key_value_heads) == (2, 2)
    assert small.tokenizer.encode("dawn") == load_model(model_file).tokenizer.encode("dawn")
    with safe_open(tmp_path / "small" / "model.safetensors", framework="pt") as opened:
        made = json.loads(opened.metadata()["understudy.prune"])
    assert made["source"] == model_file.name
    assert made["source_config"]["hidden_size"] == 64
    assert (made["samples"], made["tokens"], len(made["kept_layers"])) == (4, 2048, 1)
    again = run("prune", model_file, tmp_path / "again", "--importance", importance, *SIZES)
    assert again.code == 0
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("small", "again"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_smaller_vocabulary_alone(run: "Run", model_file: Path, text: Path, tmp_path: Path) -> None:
    result = run("prune", model_file, tmp_path / "small", "--vocabulary", text)
    assert result.code == 0
    assert "encodes to the same 2,761 tokens" in result.err
    assert load_model(tmp_path / "small").config.vocab_size == 320


def test_mistakes_are_one_sentence(run: "Run", model_file: Path, text: Path, tmp_path: Path) -> None:
    for arguments, words in (
        ((), "Nothing to prune"),
        (("--layers", 1), "--calibration FILE"),
        (("--layers", 3), "--layers 3 is more than the model has (2)"),
        (("--heads", 3), "multiple of the model's 2 KV heads"),
        (("--layers", 1, "--calibration", text, "--samples", 99), "ask for fewer samples"),
        (("--layers", 1, "--calibration", tmp_path / "none.txt"), "missing"),
        (("--layers", 1, "--importance", text), "no readable importance file"),
    ):
        result = run("prune", model_file, tmp_path / "small", *arguments)
        assert (result.code, result.out) == (2, "")
        assert words in result.err
        assert not (tmp_path / "small").exists()
