import hashlib
import json
from pathlib import Path

import torch

from understudy.evaluation.model_facts import describe_model, hash_files, hash_model
from understudy.model.checkpoint import load_model
from understudy.model.gguf_writer import write_gguf
from understudy.testing import byte_tokenizer, random_tensors, tiny_config
from understudy.training.folder import write_folder


def test_a_file_has_its_own_hash(model_file: Path, tmp_path: Path) -> None:
    facts = describe_model(load_model(model_file))
    assert facts.sha256 == hashlib.sha256(model_file.read_bytes()).hexdigest()
    assert facts.file == "tiny.gguf"
    assert facts.config["vocab_size"] == 268
    assert set(facts.formats) == {"F16", "F32"}
    assert facts.recipe is None
    assert facts.file_bytes == model_file.stat().st_size


def test_recipes_inside_files_are_found(tmp_path: Path) -> None:
    config = tiny_config()
    tensors, recipe = random_tensors(config), json.dumps({"name": "r", "seed": 3})
    file, folder = tmp_path / "x.gguf", tmp_path / "x"
    metadata = {"understudy.recipe": recipe}
    write_gguf(file, config, tensors, byte_tokenizer().definition, None, file_type="f16", metadata=metadata)
    write_folder(
        folder, config, {k: torch.from_numpy(v) for k, v in tensors.items()}, byte_tokenizer(), metadata=metadata
    )
    for path in (file, folder):
        assert describe_model(load_model(path)).recipe == {"name": "r", "seed": 3}
    before = hash_model(folder)
    (folder / "notes.txt").write_text("not the model's")
    assert hash_model(folder) == before
    (folder / "config.json").write_text((folder / "config.json").read_text() + "\n")
    assert hash_model(folder) != before


def test_names_are_part_of_a_hash(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    assert hash_files({"a": tmp_path / "a"}) != hash_files({"b": tmp_path / "a"})
