"""Other engines compute the same network, step by step, and can be measured."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from understudy.engine.backend import Step
from understudy.evaluation.engines import EngineProcess
from understudy.evaluation.peers_onnxruntime import OnnxRuntime, write_onnx
from understudy.evaluation.peers_openvino import OpenVino, openvino_model
from understudy.evaluation.peers_weights import four_bit_groups, write_beside
from understudy.model.config import NemotronConfig
from understudy.model.synthetic import write_synthetic
from understudy.model.transformer import ReferenceBackend
from understudy.model.weights import Weight
from understudy.testing import random_tensors, tiny_config
from understudy.testing.tiny import byte_tokenizer_definition

IDS = list(range(12, 40))


@pytest.mark.parametrize(("cols", "size"), [(256, 128), (96, 32), (24, 24)])
def test_four_bit_groups_lose_at_most_half_a_level(cols: int, size: int) -> None:
    values = np.random.default_rng(0).standard_normal((5, cols)).astype(np.float32)
    values[2] = 0
    levels, scales = four_bit_groups(values)
    assert levels.shape == (5, cols // size, size)
    error = np.abs((levels * scales.astype(np.float32)).reshape(values.shape) - values)
    assert error.max() <= 0.51 * scales.max()
    assert error[2].max() == 0


def rounded(config: NemotronConfig) -> dict[str, Weight]:
    """Random weights that 4 bits (the input table's: 8) hold exactly."""
    found = {}
    for name, values in random_tensors(config).items():
        kept = values
        if name == "model.embed_tokens.weight":
            scales = np.abs(values).max(axis=1, keepdims=True) / 127
            kept = np.rint(values / scales) * scales
        elif values.ndim == 2:
            levels, halves = four_bit_groups(values)
            kept = (levels * halves.astype(np.float32)).reshape(values.shape)
        found[name] = Weight.from_array(kept)
    return found


@pytest.mark.peers
@pytest.mark.parametrize(("tie", "tolerance"), [(False, 0.02), (True, 0.6)])  # a tied head has 4 bits, its table 8
def test_openvino_computes_the_same_logits(tie: bool, tolerance: float) -> None:
    openvino = pytest.importorskip("openvino")
    config = tiny_config(
        hidden_size=128, intermediate_size=256, num_attention_heads=6, head_dim=32, tie_word_embeddings=tie
    )
    weights = rounded(config)
    exact = {
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        "INFERENCE_PRECISION_HINT": "f32",
        "KV_CACHE_PRECISION": "f32",
        "INFERENCE_NUM_THREADS": 1,
    }
    compiled = openvino.Core().compile_model(openvino_model(config, weights), "CPU", exact)
    kinds = [str(op.get_rt_info()["layerType"].astype(str)) for op in compiled.get_runtime_model().get_ordered_ops()]
    assert kinds.count("ScaledDotProductAttention") == kinds.count("MemoryInput") / 2 == config.num_hidden_layers
    assert "RoPE" in kinds  # fused: what is measured is OpenVINO at its best
    request = compiled.create_infer_request()
    backend = ReferenceBackend(config, weights)
    expected = backend.forward([Step(backend.new_cache(), IDS, len(IDS))])[0]
    start = 0
    for stop in (20, 27, 28):
        inputs = {
            "input_ids": np.array([IDS[start:stop]]),
            "position_ids": np.arange(start, stop),
            "beam_idx": np.zeros(1, np.int32),
        }
        logits = request.infer(inputs)["logits"][0, -1]
        assert np.abs(logits - expected[stop - 1]).max() < tolerance * expected.std(), stop
        start = stop


@pytest.mark.peers
@pytest.mark.parametrize("tie", [False, True])
def test_onnx_runtime_computes_the_same_logits(tmp_path: Path, tie: bool) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    config = tiny_config(
        hidden_size=128, intermediate_size=256, num_attention_heads=6, head_dim=32, tie_word_embeddings=tie
    )
    weights = rounded(config)
    folder = tmp_path / "x.gguf.onnxruntime"
    folder.mkdir()
    write_onnx(folder / "model.onnx", config, weights)
    engine = OnnxRuntime(tmp_path / "x.gguf", 1)
    backend = ReferenceBackend(config, weights)
    expected = backend.forward([Step(backend.new_cache(), IDS, len(IDS))])[0]
    start = 0
    for stop in (20, 27, 28):
        logits = engine._run(IDS[start:stop])[0, -1]
        # activations are rounded to 8 bits; a tied head has 4 bits, its table 8
        assert np.abs(logits - expected[stop - 1]).max() < (0.6 if tie else 0.15) * expected.std(), stop
        start = stop


PEERS = [("openvino", ("openvino",), OpenVino), ("onnxruntime", ("onnx", "onnxruntime"), OnnxRuntime)]


@pytest.mark.peers
@pytest.mark.parametrize(("name", "packages", "kind"), PEERS, ids=[peer[0] for peer in PEERS])
def test_a_peer_is_measured(tmp_path: Path, name: str, packages: tuple[str, ...], kind: Any) -> None:
    for package in packages:
        pytest.importorskip(package)
    path = tmp_path / "x.gguf"
    write_synthetic(path, tiny_config(head_dim=32), byte_tokenizer_definition(), file_type="q4_0")
    with EngineProcess(name, path, threads=1) as engine:
        assert engine.can == {"prefill", "decode", "extend"}
        assert engine.version
        assert engine.ask(prefill=40)["seconds"] > 0
        assert engine.ask(extend=3, after=30)["seconds"] > 0
        assert engine.ask(decode=2)["seconds_a_token"] > 0
    written = list((tmp_path / f"x.gguf.{name}").iterdir())
    assert len(written) == 2
    times = {file: file.stat().st_mtime_ns for file in written}
    kind.prepare(path)
    assert times == {file: file.stat().st_mtime_ns for file in written}


@pytest.mark.peers
@pytest.mark.parametrize(("name", "packages", "kind"), PEERS, ids=[peer[0] for peer in PEERS])
def test_a_cut_sequence_goes_on_as_if_it_had_been_short(
    tmp_path: Path, name: str, packages: tuple[str, ...], kind: Any
) -> None:
    for package in packages:
        pytest.importorskip(package)
    path = tmp_path / "x.gguf"
    write_synthetic(path, tiny_config(head_dim=32), byte_tokenizer_definition(), file_type="q4_0")
    kind.prepare(path)
    engine = kind(path, 1)
    engine.prefill(IDS)
    engine.extend(10, IDS[10:15])
    cut = engine._run(IDS[15:16])
    engine.prefill(IDS[:15])
    straight = engine._run(IDS[15:16])
    assert np.abs(cut - straight).max() < 0.1 * straight.std()


def test_another_form_of_a_model_is_written_once_and_again_for_a_newer_file(tmp_path: Path) -> None:
    model, calls = tmp_path / "m.gguf", []

    def write(folder: Path) -> None:
        calls.append(folder)
        (folder / "x").write_text(str(len(calls)), encoding="utf-8")

    model.touch()
    os.utime(model, (1, 1))
    for _ in range(2):
        assert (write_beside(model, "peer", write) / "x").read_text(encoding="utf-8") == "1"
    os.utime(model, (2**33, 2**33))
    folder = write_beside(model, "peer", write)
    assert (folder / "x").read_text(encoding="utf-8") == "2"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.gguf", "m.gguf.peer"]
