import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from understudy.model.checkpoint import load_model
from understudy.model.gguf_writer import write_gguf
from understudy.testing import byte_tokenizer, random_tensors, tiny_config

if TYPE_CHECKING:
    from conftest import Result, Run

RECIPE = """
name = "tuned"
seed = 5
output = "unused"
validation = ""
probes_per_kind = 0
lora = { rank = 2 }
source = [{ name = "mine", kind = "file", corpora = ["mine.jsonl"], licence = "CC0-1.0", held_out = 0.5 }]
stage = [{ name = "all", steps = 2, length = 128, batch_tokens = 256, mixture = { mine = 1.0 }, packing = true }]
"""
RECORD = {
    "system": "You are Tam.",
    "turns": [{"role": "user", "content": "Name?"}, {"role": "assistant", "content": "Tam."}],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = tiny_config()
    write_gguf(
        tmp_path / "base.gguf", config, random_tensors(config), byte_tokenizer().definition, None, file_type="f16"
    )
    (tmp_path / "mine.jsonl").write_text("\n".join([json.dumps(RECORD)] * 4), encoding="utf-8")
    (tmp_path / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    return tmp_path


def finetune(run: "Run", folder: Path) -> "Result":
    files = {"--model": folder / "base.gguf", "--data": folder, "--output": folder / "run"}
    return run("finetune", folder / "recipe.toml", *(x for pair in files.items() for x in pair), "--threads", "1")


def test_a_model_learns_and_becomes_files(run: "Run", folder: Path) -> None:
    result = finetune(run, folder)
    assert result.code == 0, result.err
    assert "before: held_out_mine" in result.err and "starting at step 0 of 2" in result.err
    made = folder / "run"
    assert {p.name for p in (made / "tuned-adapters").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    assert (made / "tuned-adapters.gguf").is_file() and (made / "curve.png").is_file()
    assert load_model(made / "tuned.gguf").config == load_model(made / "tuned").config == tiny_config()
    again = finetune(run, folder)  # a finished run is only exported again
    assert again.code == 0 and "going on at step 2 of 2" in again.err


def test_a_bad_record_is_told_in_a_sentence(run: "Run", folder: Path) -> None:
    (folder / "mine.jsonl").write_text(json.dumps({**RECORD, "turns": []}), encoding="utf-8")
    result = finetune(run, folder)
    assert result.code == 2
    assert "mine.jsonl, line 1: 'turns' must be a list of at least two turns" in result.err
    assert not (folder / "run" / "checkpoint.pt").exists()


def test_adapters_are_not_for_train(run: "Run", folder: Path) -> None:
    shape = ", ".join(f"{k} = {json.dumps(v)}" for k, v in dataclasses.asdict(tiny_config()).items())
    (folder / "recipe.toml").write_text(f"{RECIPE}model = {{ {shape} }}\n", encoding="utf-8")
    result = run("train", folder / "recipe.toml", "--data", folder, "--output", folder / "run")
    assert result.code == 2 and "run understudy finetune" in result.err


def test_a_model_learns_from_pairs_of_answers(run: "Run", folder: Path) -> None:
    pair = {**RECORD, "turns": RECORD["turns"][:1], "chosen": "Tam.", "rejected": "I am the river."}
    (folder / "mine.jsonl").write_text("\n".join([json.dumps(pair)] * 4), encoding="utf-8")
    recipe = RECIPE.replace('kind = "file"', 'kind = "preference"').replace("lora = { rank = 2 }", "preference = {}")
    (folder / "recipe.toml").write_text(recipe, encoding="utf-8")
    result = finetune(run, folder)
    assert result.code == 0, result.err
    assert load_model(folder / "run" / "tuned.gguf").config == tiny_config()
    losses = [row.split(",") for row in (folder / "run" / "evaluations.csv").read_text().splitlines()]
    assert "held_out_mine" in {row[2] for row in losses}
    (folder / "recipe.toml").write_text(RECIPE + "preference = {}\n", encoding="utf-8")
    result = finetune(run, folder)
    assert result.code == 2 and "belong together" in result.err
