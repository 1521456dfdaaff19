"""Strength of inputs, measured layer by layer."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from understudy.errors import DataError, ModelFileError
from understudy.model.checkpoint import LoadedModel
from understudy.model.weights import Weight
from understudy.quantization.calibration import (
    CalibrationOptions,
    calibrate,
    calibration_batches,
    measure_importance,
    model_hash,
)
from understudy.testing import tiny_model
from understudy.training.model import NemotronLM, from_hf_tensors


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return tiny_model(seed=5)


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> CalibrationOptions:
    path = tmp_path_factory.mktemp("texts") / "talk.jsonl"
    turns = [{"role": "user", "content": "Good day."}, {"role": "assistant", "content": "And to you!"}]
    records = [{"system": f"You are Ann, born in {1800 + n}.", "turns": turns} for n in range(9)]
    path.write_text("\n".join(map(json.dumps, records)))
    return CalibrationOptions(source=str(path), samples=6, length=64)


def test_channels_are_those_of_the_whole_model(model: LoadedModel, options: CalibrationOptions) -> None:
    batches = calibration_batches(model, options)
    found = measure_importance(model, batches)
    lm = NemotronLM(model.config)
    from_hf_tensors(lm, {name: torch.from_numpy(w.dense()) for name, w in model.weights.items()})
    seen: dict[str, list[torch.Tensor]] = {}
    watched = {
        "model.layers.0.self_attn.k_proj.weight": lm.layers[0].qkv_proj,
        "model.layers.1.self_attn.o_proj.weight": lm.layers[1].o_proj,
        "model.layers.1.mlp.up_proj.weight": lm.layers[1].up_proj,
        "model.layers.1.mlp.down_proj.weight": lm.layers[1].down_proj,
        "lm_head.weight": lm.lm_head,
    }
    for name, module in watched.items():
        seen[name] = []
        module.register_forward_pre_hook(lambda _, args, name=name: seen[name].append(args[0].detach()))
    with torch.no_grad():
        for batch in batches:
            lm(batch)
    for name, inputs in seen.items():
        expected = torch.cat([x.reshape(-1, x.shape[-1]) for x in inputs]).square().mean(0)
        np.testing.assert_allclose(found[name], expected.numpy(), rtol=1e-4, atol=1e-7, err_msg=name)
    assert len(found) == 6 * model.config.num_hidden_layers + 1


def test_rows_are_of_one_length_and_come_from_the_template(model: LoadedModel, options: CalibrationOptions) -> None:
    batches = calibration_batches(model, options)
    assert sum(len(b) for b in batches) == 6
    assert {b.shape[1] for b in batches} == {64}
    assert model.tokenizer.special_id("<extra_id_0>") in batches[0][0].tolist()


def test_a_second_time_it_is_read_back(model: LoadedModel, options: CalibrationOptions, tmp_path: Path) -> None:
    store = tmp_path / "calibration.safetensors"
    steps: list[int] = []
    first = calibrate(model, options, store, progress=lambda done, _: steps.append(done))
    assert steps == [1, 2]
    second = calibrate(model, options, store, progress=lambda done, _: steps.append(done))
    assert steps == [1, 2]
    assert second.identity == first.identity
    for name, values in first.channels.items():
        np.testing.assert_array_equal(second.channels[name], values)
    with safe_open(store, framework="np") as file:
        assert json.loads(file.metadata()["understudy.calibration"])["num_tokens"] == 6 * 64


def test_other_texts_or_another_model_are_measured_again(
    model: LoadedModel, options: CalibrationOptions, tmp_path: Path
) -> None:
    store = tmp_path / "calibration.safetensors"
    first = calibrate(model, options, store)
    other_texts = calibrate(model, dataclasses.replace(options, samples=5), store)
    other_model = calibrate(tiny_model(seed=6), options, store)
    assert len({first.identity, other_texts.identity, other_model.identity}) == 3
    name = "lm_head.weight"
    assert not np.array_equal(first.channels[name], other_model.channels[name])


def test_one_weight_changes_the_hash(model: LoadedModel) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    values = model.weights[name].dense()
    values[3, 4] += 1e-3
    changed = dataclasses.replace(model, weights={**model.weights, name: Weight.from_array(values)})
    assert model_hash(changed) != model_hash(model) == model_hash(tiny_model(seed=5))


def test_generated_dialogues_need_no_files(model: LoadedModel) -> None:
    batches = calibration_batches(model, CalibrationOptions(samples=4, length=32))
    assert sum(len(b) for b in batches) == 4
    assert torch.equal(batches[0], calibration_batches(model, CalibrationOptions(samples=4, length=32))[0])


def test_a_file_of_something_else(model: LoadedModel, tmp_path: Path) -> None:
    path = tmp_path / "talk.jsonl"
    path.write_text('{"text": "no dialogue"}')
    with pytest.raises(DataError, match="line 1: unknown field"):
        calibration_batches(model, CalibrationOptions(source=str(path)))


@pytest.mark.parametrize(
    ("source", "message"),
    [("nowhere", "no calibration source 'nowhere'"), ("worlds", "name it with --data"), ("a.jsonl", "is missing")],
)
def test_a_source_that_is_not_there(model: LoadedModel, source: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        calibration_batches(model, CalibrationOptions(source=source))


def test_damage_is_named(model: LoadedModel, options: CalibrationOptions, tmp_path: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    values = model.weights[name].dense()
    values[:] = 3e38
    broken = dataclasses.replace(model, weights={**model.weights, name: Weight.from_array(values)})
    with pytest.raises(ModelFileError, match="not finite"):
        measure_importance(broken, calibration_batches(model, options))
    store = tmp_path / "calibration.safetensors"
    store.write_bytes(b"not safetensors at all")
    with pytest.raises(DataError, match="is no calibration file"):
        calibrate(model, options, store)
