"""Random weights: readable, sane, and with the share of zeros that was asked for."""

from pathlib import Path

import numpy as np
import pytest

from understudy.engine.backend import Step
from understudy.errors import ModelFileError
from understudy.model.checkpoint import load_model
from understudy.model.published import PUBLISHED_SHAPES
from understudy.model.synthetic import SYNTHETIC_TYPES, write_synthetic
from understudy.model.transformer import ReferenceBackend
from understudy.testing import tiny_config
from understudy.testing.tiny import byte_tokenizer_definition

CONFIG = tiny_config(hidden_size=256, intermediate_size=512, num_attention_heads=8, head_dim=32)


@pytest.mark.parametrize("file_type", list(SYNTHETIC_TYPES))
def test_a_model_of_any_format_runs(file_type: str, tmp_path: Path) -> None:
    write_synthetic(tmp_path / "x.gguf", CONFIG, byte_tokenizer_definition(), file_type=file_type)
    model = load_model(tmp_path / "x.gguf")
    assert model.weights["model.layers.0.mlp.up_proj.weight"].kind is SYNTHETIC_TYPES[file_type][0]
    backend = ReferenceBackend(model.config, model.weights)
    logits = backend.forward([Step(backend.new_cache(), [5, 6, 7], 3)])[0]
    assert 0.3 < logits.std() < 5
    for name, weight in model.weights.items():
        if len(weight.shape) == 2:
            assert weight.dense().std() == pytest.approx(weight.shape[1] ** -0.5, rel=0.15), name


@pytest.mark.parametrize("file_type", ["q4_0", "q4_k"])
def test_the_share_of_zeros(file_type: str, tmp_path: Path) -> None:
    write_synthetic(tmp_path / "x.gguf", CONFIG, byte_tokenizer_definition(), file_type=file_type, zeros=0.9)
    weights = load_model(tmp_path / "x.gguf").weights
    up = weights["model.layers.1.mlp.up_proj.weight"].dense()
    x = np.random.default_rng(0).standard_normal((200, 256)).astype(np.float32)
    x -= x.mean(1, keepdims=True)
    x /= x.std(1, keepdims=True)
    x += weights["model.layers.1.post_attention_layernorm.bias"].dense()
    assert np.mean(x @ up.T <= 0) == pytest.approx(0.9, abs=0.03)


def test_what_it_refuses(tmp_path: Path) -> None:
    for words, call in {
        "choose from": {"file_type": "q3_k"},
        "0.5 to 0.99": {"file_type": "q4_0", "zeros": 0.3},
        "but for q4_0 and q4_k": {"file_type": "f16", "zeros": 0.9},
    }.items():
        with pytest.raises(ModelFileError, match=words):
            write_synthetic(tmp_path / "x.gguf", CONFIG, byte_tokenizer_definition(), **call)  # type: ignore[arg-type]
    with pytest.raises(ModelFileError, match="do not fill blocks"):
        write_synthetic(tmp_path / "x.gguf", tiny_config(), byte_tokenizer_definition(), file_type="q4_k")
    assert list(tmp_path.iterdir()) == []


def test_published_shapes_have_their_published_sizes() -> None:
    sizes = {name: round(config.num_parameters / 1e9, 2) for name, config in PUBLISHED_SHAPES.items()}
    assert sizes == {"nemotron-mini-4b": 4.19, "minitron-8b": 8.27, "nemotron-4-15b": 15.63}
