import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from understudy.errors import DataError, RecipeError
from understudy.model.checkpoint import LoadedModel, load_model
from understudy.model.gguf_reader import read_gguf
from understudy.model.gguf_writer import write_gguf
from understudy.testing import byte_tokenizer, random_tensors, tiny_config
from understudy.training.finetuning import export_finetuned, finetuning_recipe
from understudy.training.folder import read_lm
from understudy.training.lora import adapter_state
from understudy.training.model import to_hf_tensors
from understudy.training.recipe import Recipe
from understudy.training.trainer import Trainer

RECIPE = """
name = "tuned"
seed = 5
output = "unused"
validation = ""
evaluate_every = 4
checkpoint_every = 3
probes_per_kind = 0

[optimizer]
kind = "adamw"
adam_lr = 0.01
warmup_steps = 1

[[source]]
name = "mine"
kind = "file"
corpora = ["mine.jsonl"]
licence = "CC0-1.0"
held_out = 0.25

[[stage]]
name = "finetune"
steps = 8
length = 256
batch_tokens = 512
mixture = { mine = 1.0 }
packing = true
"""
LORA = "\n[lora]\nrank = 2\nalpha = 8\nmodules = ['q_proj', 'v_proj', 'up_proj', 'down_proj']\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("finetuning")
    config = tiny_config()
    for name, seed in (("base", 1), ("other", 2)):
        tensors = random_tensors(config, seed=seed)
        keys = {"general.license": "mit"}
        write_gguf(
            root / f"{name}.gguf", config, tensors, byte_tokenizer().definition, None, file_type="f16", metadata=keys
        )
    records = [
        {
            "system": f"You are guard {n}.",
            "turns": [{"role": "user", "content": "Halt?"}, {"role": "assistant", "content": "None shall pass."}],
        }
        for n in range(16)
    ]
    (root / "mine.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return root


def prepared(folder: Path, text: str, output: Path, base: str = "base.gguf") -> tuple[Trainer, Recipe, LoadedModel]:
    path = output.with_suffix(".toml")
    path.write_text(text, encoding="utf-8")
    files = load_model(folder / base)
    recipe = finetuning_recipe(path, files)
    output.mkdir(exist_ok=True)
    trainer = Trainer(recipe, data=folder, output=output, tokenizer=files.tokenizer, report=lambda text: None)
    trainer.start_from(files)
    return trainer, recipe, files


def test_adapters_learn_resume_and_become_files(folder: Path, tmp_path: Path) -> None:
    whole, recipe, files = prepared(folder, RECIPE + LORA, tmp_path / "whole")
    before = whole.evaluate()["held_out_mine"]
    list(whole.run())
    after = whole.evaluate()
    assert set(after) == {"held_out_mine"} and after["held_out_mine"] < before - 0.5
    checkpoint = torch.load(tmp_path / "whole" / "checkpoint.pt", weights_only=True)
    assert all(".lora_" in name for name in checkpoint["model"])

    stopped, _, _ = prepared(folder, RECIPE + LORA, tmp_path / "stopped")
    next(p for p in stopped.run() if p.step == 5)
    resumed, _, _ = prepared(folder, RECIPE + LORA, tmp_path / "stopped")
    assert resumed.resume() and resumed.step == 3
    list(resumed.run())
    expected = adapter_state(whole.model)
    assert all(torch.equal(value, expected[name]) for name, value in adapter_state(resumed.model).items())

    made = export_finetuned(recipe, files, tmp_path / "whole")
    assert made.adapters is not None and made.gguf_adapters is not None
    ids = torch.tensor([files.tokenizer.encode("Halt? None shall")])
    with torch.no_grad():
        wanted = whole.model(ids)
        for path, tolerance in ((made.folder, 1e-5), (made.gguf, 2e-2)):
            model, loaded = read_lm(path)
            assert (model(ids) - wanted).abs().max() < tolerance * wanted.abs().max()
            assert loaded.tokenizer.definition["model"] == files.tokenizer.definition["model"]
    assert read_gguf(made.gguf).metadata["general.license"] == "mit"  # the base model's
    with safe_open(made.adapters / "adapter_model.safetensors", "pt") as stored:
        stated = stored.metadata()
    assert json.loads(stated["understudy.recipe"])["lora"]["rank"] == 2
    assert stated["understudy.base"] == read_gguf(made.gguf_adapters).metadata["understudy.base"]


def test_the_whole_model_is_fine_tuned_without_a_table_lora(folder: Path, tmp_path: Path) -> None:
    trainer, recipe, files = prepared(folder, RECIPE, tmp_path / "full")
    list(trainer.run())
    made = export_finetuned(recipe, files, tmp_path / "full")
    assert made.adapters is made.gguf_adapters is None
    tuned = to_hf_tensors(read_lm(made.folder)[0])
    assert all(torch.equal(tuned[name], value) for name, value in to_hf_tensors(trainer.model).items())
    assert sum(not torch.equal(tuned[n], torch.from_numpy(w.dense())) for n, w in files.weights.items()) == len(tuned)


def test_adapters_stay_with_their_model(folder: Path, tmp_path: Path) -> None:
    trainer, recipe, _ = prepared(folder, RECIPE + LORA, tmp_path / "run")
    trainer.step = recipe.total_steps
    trainer.save()
    other, _, files = prepared(folder, RECIPE + LORA, tmp_path / "run", base="other.gguf")
    with pytest.raises(DataError, match="adapters of another model"):
        other.resume()
    with pytest.raises(DataError, match="adapters of another model"):
        export_finetuned(recipe, files, tmp_path / "run")
    without, _, _ = prepared(folder, RECIPE, tmp_path / "run")
    with pytest.raises(DataError, match="another"):
        without.resume()


def test_adapters_need_a_model(folder: Path, tmp_path: Path) -> None:
    trainer, _, _ = prepared(folder, RECIPE + LORA, tmp_path / "run")
    bare = Trainer(trainer.recipe, data=folder, output=tmp_path, tokenizer=trainer.tokenizer, report=lambda text: None)
    with pytest.raises(DataError, match="need a model to stand beside"):
        next(bare.run())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('licence = "CC0-1.0"', ""), "its licence is not stated"),
        (("CC0-1.0", "CC-BY-NC-4.0"), "forbids uses"),
        (("held_out = 0.25", "held_out = 0.9"), "held_out is a share"),
        (("rank = 2", "rank = 0"), "rank must be 1 to 1024"),
        (("'q_proj', ", "'qkv_proj', "), "no module 'qkv_proj'"),
        (("'q_proj', ", "'v_proj', "), "each once"),
        (("rank = 2", "ranks = 2"), "ranks"),
        (('kind = "file"', 'kind = "dialogue"'), "only sources of kind file or preference state a licence"),
    ],
)
def test_a_wrong_recipe_is_refused(folder: Path, tmp_path: Path, change: tuple[str, str], message: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text((RECIPE + LORA).replace(*change), encoding="utf-8")
    with pytest.raises((RecipeError, DataError), match=message):
        finetuning_recipe(path, load_model(folder / "base.gguf"))


def test_a_bad_record_keeps_what_was_there(folder: Path, tmp_path: Path) -> None:
    trainer, recipe, _ = prepared(folder, RECIPE + LORA, tmp_path / "run")
    trainer.save()
    before = (tmp_path / "run" / "checkpoint.pt").read_bytes()
    (tmp_path / "mine.jsonl").write_text('{"system": "You are Tam."}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"mine\.jsonl, line 1: 'turns' must be a list"):
        Trainer(
            dataclasses.replace(recipe, name="tuned"),
            data=tmp_path,
            output=tmp_path / "run",
            tokenizer=trainer.tokenizer,
            report=lambda text: None,
        )
    assert (tmp_path / "run" / "checkpoint.pt").read_bytes() == before
