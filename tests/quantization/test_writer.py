"""Quantized files: whole, resumed after a kill, and refused with the last good state kept."""

import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from understudy.errors import ModelFileError
from understudy.kernels.formats import StorageType
from understudy.model.checkpoint import LoadedModel, load_model
from understudy.model.gguf_reader import read_gguf
from understudy.model.gguf_writer import write_gguf
from understudy.model.weights import Weight
from understudy.quantization.calibration import CalibrationOptions, calibrate
from understudy.quantization.plan import named_plan
from understudy.quantization.writer import Progress, quantize_model
from understudy.testing import tiny_model
from understudy.training.folder import write_folder

WIDE = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}
HEAD, TABLE = "lm_head.weight", "model.embed_tokens.weight"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder, bfloat16."""
    model = tiny_model(seed=3, **WIDE)
    path = tmp_path_factory.mktemp("hf") / "tiny"
    tensors = {name: torch.from_numpy(w.dense()).bfloat16() for name, w in model.weights.items()}
    write_folder(path, model.config, tensors, model.tokenizer)
    return path


def test_a_folder_becomes_a_file_that_loads(folder: Path, tmp_path: Path) -> None:
    source = load_model(folder)
    plan = named_plan("q4", source.config)
    importance = calibrate(source, CalibrationOptions(samples=2, length=32))
    states: list[Progress] = []
    result = quantize_model(
        source, tmp_path / "q4.gguf", plan, importance, options={"to": "q4"}, progress=states.append
    )
    back = load_model(result.path)
    assert back.config == source.config
    assert [p.name for p in tmp_path.iterdir()] == ["q4.gguf"]
    assert result.num_bytes == result.path.stat().st_size
    assert 4.5 < result.bits_per_weight < 5.7
    assert states[-1].tensors == states[-1].num_tensors == len(plan.kinds)
    for name, weight in source.weights.items():
        values, again = weight.dense(), back.weights[name].dense()
        assert back.weights[name].kind is plan.kinds[name]
        noise = np.sqrt(((again - values) ** 2).mean() / (values**2).mean())
        assert noise < (1e-6 if values.ndim == 1 else 0.12), name
    note = json.loads(back.metadata["understudy.quantization"])
    assert back.metadata["general.file_type"] == 14
    assert note["calibration"] == importance.identity
    assert note["options"] == {"to": "q4"}
    assert note["kinds"][HEAD] == "Q6_K"


def test_a_gguf_is_a_source_too(folder: Path, tmp_path: Path) -> None:
    source = load_model(folder)
    write_gguf(
        tmp_path / "f16.gguf",
        source.config,
        source.weights,
        source.tokenizer.definition,
        None,
        file_type="f16",
        metadata={"general.name": "Tiny", "general.license": "apache-2.0"},
    )
    half = load_model(tmp_path / "f16.gguf")
    quantize_model(half, tmp_path / "q8.gguf", named_plan("q8", half.config))
    back = load_model(tmp_path / "q8.gguf")
    assert (back.metadata["general.name"], back.metadata["general.license"]) == ("Tiny", "apache-2.0")
    for name in ("model.layers.0.input_layernorm.weight", "model.norm.bias"):
        np.testing.assert_array_equal(back.weights[name].dense(), half.weights[name].dense())
    with pytest.raises(ModelFileError, match="quantized already"):
        quantize_model(back, tmp_path / "twice.gguf", named_plan("q4", back.config))


@pytest.mark.parametrize("is_fed_back", [False, True])
def test_a_tied_model_holds_the_same_table_twice(tmp_path: Path, is_fed_back: bool) -> None:
    model = tiny_model(seed=4, tie_word_embeddings=True, **WIDE)
    batches = [torch.randint(0, model.config.vocab_size, (2, 32), generator=torch.Generator().manual_seed(2))]
    plan = named_plan("q4", model.config)
    quantize_model(model, tmp_path / "tied.gguf", plan, feedback=batches if is_fed_back else None)
    assert load_model(tmp_path / "tied.gguf").config.tie_word_embeddings
    stored = read_gguf(tmp_path / "tied.gguf").tensors
    assert stored["output.weight"].kind is StorageType.Q6_K
    np.testing.assert_array_equal(stored["output.weight"].raw, stored["token_embd.weight"].raw)


CHILD = """
import sys, time
from pathlib import Path
from understudy.model.checkpoint import load_model
from understudy.quantization.plan import named_plan
from understudy.quantization.writer import quantize_model
files = load_model(Path(sys.argv[1]))
def show(state):
    print(state.tensors, flush=True)
    time.sleep(0.05)
quantize_model(files, Path(sys.argv[2]), named_plan("q4", files.config), num_threads=1, progress=show)
"""


def test_killed_and_resumed_it_is_the_same_bit_for_bit(folder: Path, tmp_path: Path) -> None:
    source = load_model(folder)
    plan = named_plan("q4", source.config)
    quantize_model(source, tmp_path / "whole.gguf", plan)
    output = tmp_path / "torn.gguf"
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(folder), str(output)], stdout=subprocess.PIPE, text=True)
    with child:
        assert child.stdout
        lines = [child.stdout.readline() for _ in range(7)]
        os.kill(child.pid, signal.SIGKILL)
    assert lines[-1] == "7\n"
    assert not output.exists()
    result = quantize_model(source, output, plan)
    assert result.resumed >= 7
    assert output.read_bytes() == (tmp_path / "whole.gguf").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["torn.gguf", "whole.gguf"]


def interrupt(source: LoadedModel, output: Path, after: int, feedback: list[torch.Tensor] | None = None) -> None:
    """Stop a quantization after some tensors."""

    class Stop(Exception):
        pass

    def stop(state: Progress) -> None:
        if state.tensors == after:
            raise Stop

    with pytest.raises(Stop):
        quantize_model(source, output, named_plan("q4", source.config), feedback=feedback, progress=stop)


@pytest.mark.parametrize("damage", ["bytes", "tail", "line"])
def test_a_damaged_spool_is_done_again_from_there(folder: Path, tmp_path: Path, damage: str) -> None:
    source = load_model(folder)
    plan = named_plan("q4", source.config)
    quantize_model(source, tmp_path / "whole.gguf", plan)
    output = tmp_path / "torn.gguf"
    interrupt(source, output, 9)
    spool, index = tmp_path / "torn.gguf.spool", tmp_path / "torn.gguf.spool.jsonl"
    places = [json.loads(line) for line in index.read_text().splitlines()[1:]]
    if damage == "bytes":
        data = bytearray(spool.read_bytes())
        data[places[5]["start"]] ^= 1
        spool.write_bytes(data)
    elif damage == "tail":
        os.truncate(spool, places[5]["start"] + 1)
    else:
        lines = index.read_text().splitlines(keepends=True)
        index.write_text("".join(lines[:6]) + lines[6][:20])
    result = quantize_model(source, output, plan)
    assert result.resumed == 5
    assert output.read_bytes() == (tmp_path / "whole.gguf").read_bytes()


def test_error_feedback_goes_on_where_it_was(folder: Path, tmp_path: Path) -> None:
    """A layer is whole, the next one is not."""
    source = load_model(folder)
    plan = named_plan("q4", source.config)
    batches = [torch.randint(0, source.config.vocab_size, (2, 32), generator=torch.Generator().manual_seed(1))]
    quantize_model(source, tmp_path / "whole.gguf", plan, feedback=batches)
    interrupt(source, tmp_path / "torn.gguf", 8, feedback=batches)
    assert quantize_model(source, tmp_path / "torn.gguf", plan, feedback=batches).resumed == 8
    assert (tmp_path / "torn.gguf").read_bytes() == (tmp_path / "whole.gguf").read_bytes()
    quantize_model(source, tmp_path / "plain.gguf", plan)
    whole, plain = load_model(tmp_path / "whole.gguf"), load_model(tmp_path / "plain.gguf")
    assert json.loads(whole.metadata["understudy.quantization"])["error_feedback"]
    name = "model.layers.0.mlp.up_proj.weight"
    assert not np.array_equal(whole.weights[name].raw, plain.weights[name].raw)
    np.testing.assert_array_equal(whole.weights[TABLE].raw, plain.weights[TABLE].raw)


def test_another_job_does_not_take_what_is_there(folder: Path, tmp_path: Path) -> None:
    source = load_model(folder)
    output = tmp_path / "model.gguf"
    interrupt(source, output, 9)
    result = quantize_model(source, output, named_plan("q8", source.config))
    assert result.resumed == 0
    assert load_model(output).weights[HEAD].kind is StorageType.Q8_0


def test_a_full_disk_keeps_what_was_finished(folder: Path, tmp_path: Path) -> None:
    source = load_model(folder)
    plan = named_plan("q4", source.config)
    output = tmp_path / "model.gguf"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(ModelFileError, match="finished tensors are kept"):
            quantize_model(source, output, plan)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    assert not output.exists()
    assert quantize_model(source, output, plan).resumed > 0
    assert load_model(output).config == source.config


def test_a_bad_weight_is_named(folder: Path, tmp_path: Path) -> None:
    source = load_model(folder)
    name = "model.layers.1.mlp.up_proj.weight"
    values = source.weights[name].dense()
    values[2, 3] = np.inf
    broken = dataclasses.replace(source, weights={**source.weights, name: Weight.from_array(values)})
    with pytest.raises(ModelFileError, match=r"up_proj.weight' cannot be stored as Q4_K: a value is not a number"):
        quantize_model(broken, tmp_path / "model.gguf", named_plan("q4", source.config))
    assert not (tmp_path / "model.gguf").exists()
