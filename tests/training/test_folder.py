from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import GenerationConfig

from understudy.model.checkpoint import load_model
from understudy.model.config import NemotronConfig
from understudy.testing.tiny import tiny_config, tiny_model
from understudy.tokenizer import Tokenizer
from understudy.training import folder as module
from understudy.training.folder import read_lm, write_folder
from understudy.training.model import NemotronLM, to_hf_tensors


def test_the_same_tensors_give_the_same_bytes(tmp_path: Path, tokenizer: Tokenizer) -> None:
    model = NemotronLM(_config(tokenizer))
    tensors = to_hf_tensors(model)
    files = []
    for name in ("one", "two"):
        write_folder(tmp_path / name, model.config, tensors, tokenizer, metadata={"a": "1", "b": "2", "c": "3"})
        files.append((tmp_path / name / "model.safetensors").read_bytes())
    assert files[0] == files[1]
    assert all(
        torch.equal(value, tensors[name]) for name, value in load_file(tmp_path / "one/model.safetensors").items()
    )
    read, _ = read_lm(tmp_path / "one")
    assert all(torch.equal(a, b) for a, b in zip(read.parameters(), model.parameters(), strict=True))


def test_other_hosts_stop_where_the_next_turn_would_begin(tmp_path: Path) -> None:
    model = tiny_model()
    tensors = {name: torch.from_numpy(weight.dense()) for name, weight in model.weights.items()}
    write_folder(tmp_path, model.config, tensors, model.tokenizer)
    stops = GenerationConfig.from_pretrained(tmp_path).eos_token_id
    assert stops == [model.config.eos_token_id, model.tokenizer.special_id("<extra_id_1>")]


def test_large_models_come_in_shards(tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SHARD_BYTES", 300_000)
    model = NemotronLM(_config(tokenizer))
    tensors = {name: value.bfloat16() for name, value in to_hf_tensors(model).items()}
    write_folder(tmp_path / "sharded", model.config, tensors, tokenizer)
    names = sorted(path.name for path in (tmp_path / "sharded").glob("*.safetensors"))
    assert len(names) > 1 and names[0] == f"model-00001-of-{len(names):05}.safetensors"
    files = load_model(tmp_path / "sharded")
    assert all((files.weights[name].dense() == value.float().numpy()).all() for name, value in tensors.items())


def _config(tokenizer: Tokenizer) -> NemotronConfig:
    return tiny_config(vocab_size=tokenizer.vocab_size)
