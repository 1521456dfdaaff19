"""Loading model folders and files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from understudy.errors import ModelFileError
from understudy.model.checkpoint import LoadedModel, load_model


def assert_same_weights(model: LoadedModel, tensors: dict[str, np.ndarray]) -> None:
    assert model.weights.keys() == tensors.keys()
    for name, values in tensors.items():
        np.testing.assert_array_equal(model.weights[name].dense(), values, err_msg=name)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_folders_of_each_kind(save_folder: Any, config, tensors, kind: str, sharded: bool, dtype: torch.dtype) -> None:
    model = load_model(save_folder(kind, sharded=sharded, dtype=dtype))
    assert model.config == config
    assert model.tokenizer.special_id("</s>") == config.eos_token_id
    assert model.chat_template is None
    assert model.metadata["model_type"] == "nemotron"
    assert model.file_bytes > sum(v.size for v in tensors.values()) * dtype.itemsize
    assert_same_weights(model, tensors)


def test_buffers_and_tied_copies_are_ignored(save_folder: Any, tensors) -> None:
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}
    assert_same_weights(load_model(save_folder(extra=extra)), tensors)


def test_chat_template_is_found(save_folder: Any) -> None:
    folder = save_folder()
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": [{"name": "default", "template": "a"}]}))
    assert load_model(folder).chat_template == "a"
    (folder / "chat_template.jinja").write_text("b")
    assert load_model(folder).chat_template == "b"


def refused(path: Path, *words: str) -> None:
    with pytest.raises(ModelFileError) as caught:
        load_model(path)
    for word in words:
        assert word in str(caught.value)


def test_paths_that_are_no_model(tmp_path: Path, save_folder: Any) -> None:
    refused(tmp_path / "nothing.gguf", "There is no model")
    refused(tmp_path, "config.json")
    folder = save_folder()
    refused(folder / "model.safetensors", "give the folder")
    (folder / "model.safetensors").unlink()
    refused(folder, "no weights")
    (tmp_path / "empty.gguf").touch()
    refused(tmp_path / "empty.gguf", "empty")
    (tmp_path / "text.gguf").write_text("hello, this is no model")
    refused(tmp_path / "text.gguf", "GGUF")


def test_a_foreign_architecture_is_named(save_folder: Any, config) -> None:
    refused(save_folder(raw_config={**config.to_hf(), "model_type": "llama"}), "'llama'", "nemotron")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_hidden_layers": 3}, ("model.layers.2", "missing")),
        ({"num_hidden_layers": 1}, ("model.layers.1", "belongs to no Nemotron")),
        ({"num_hidden_layers": 1 << 23}, ("too few",)),
        ({"intermediate_size": 97}, ("up_proj", "(96, 64)", "(97, 64)")),
        ({"vocab_size": 100}, ("embed_tokens",)),
        ({"hidden_size": "64"}, ("hidden_size",)),
        ({"tie_word_embeddings": True, "vocab_size": 268.0}, ("vocab_size",)),
    ],
)
def test_configuration_and_weights_must_agree(save_folder: Any, config, change: dict[str, Any], words) -> None:
    refused(save_folder(raw_config={**config.to_hf(), **change}), *words)


def test_tied_model_ignores_its_output_copy(save_folder: Any, config) -> None:
    model = load_model(save_folder(raw_config={**config.to_hf(), "tie_word_embeddings": True}))
    assert "lm_head.weight" not in model.weights


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"\\ud800"', "[" * 100_000, "\x00", '{"a": 1, "a": 2}'])
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_broken_json_is_refused(save_folder: Any, name: str, text: str) -> None:
    folder = save_folder()
    (folder / name).write_text(text)
    refused(folder)


@pytest.mark.parametrize("added", [3, [3], [{}], [{"id": "1", "content": "a"}], [{"id": 1, "content": None}]])
def test_malformed_added_tokens_are_refused(save_folder: Any, added: Any) -> None:
    folder = save_folder()
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE"}, "added_tokens": added}))
    refused(folder)


def test_a_tokenizer_larger_than_the_model_is_refused(save_folder: Any) -> None:
    folder = save_folder()
    definition = json.loads((folder / "tokenizer.json").read_text())
    definition["model"]["vocab"]["more"] = 268
    (folder / "tokenizer.json").write_text(json.dumps(definition))
    refused(folder, "269", "268")


@pytest.mark.parametrize(
    ("weight_map", "words"),
    [
        (None, ("weight_map",)),
        ([], ("weight_map",)),
        ({"a": 3}, ("weight_map",)),
        ({"a": "../model-00001-of-00002.safetensors"}, ("same folder",)),
        ({"a": "/etc/passwd"}, ("same folder",)),
        ({"a": "missing.safetensors"}, ("no file", "missing.safetensors")),
        ({"a": "model-00001-of-00002.safetensors"}, ("lacks", "'a'")),
    ],
)
def test_broken_index_is_refused(save_folder: Any, weight_map: Any, words: tuple[str, ...]) -> None:
    folder = save_folder(sharded=True)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    refused(folder, *words)


def test_a_tensor_in_two_shards_is_refused(save_folder: Any) -> None:
    folder = save_folder(sharded=True)
    (folder / "copy.safetensors").write_bytes((folder / "model-00001-of-00002.safetensors").read_bytes())
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["lm_head.weight"] = "copy.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(folder, "two shards")
