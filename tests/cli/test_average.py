import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from understudy.model.checkpoint import load_model
from understudy.model.gguf_writer import write_gguf
from understudy.testing import byte_tokenizer, random_tensors, tiny_config

if TYPE_CHECKING:
    from conftest import Run


@pytest.fixture
def other_file(tmp_path: Path) -> Path:
    path, config = tmp_path / "other.gguf", tiny_config()
    told = {"general.name": "other", "general.license": "mit"}
    tensors = random_tensors(config, seed=5)
    write_gguf(path, config, tensors, byte_tokenizer().definition, None, file_type="f16", metadata=told)
    return path


def test_the_mean_of_two_is_written(run: "Run", model_file: Path, other_file: Path, tmp_path: Path) -> None:
    output = tmp_path / "mean.gguf"
    done = run("average", model_file, other_file, "--output", output, "--shares", "0.25,0.75")
    assert (done.code, done.out) == (0, "") and str(output) in done.err
    first, second, mean = (load_model(path) for path in (model_file, other_file, output))
    name = "model.layers.0.mlp.up_proj.weight"
    expected = 0.25 * first.weights[name].dense() + 0.75 * second.weights[name].dense()
    np.testing.assert_allclose(mean.weights[name].dense(), expected, atol=1e-3)
    assert (mean.metadata["general.name"], mean.metadata["general.license"]) == ("other", "mit")
    made = json.loads(mean.metadata["understudy.average"])
    assert [part["file"] for part in made["of"]] == [model_file.name, other_file.name]
    assert made["shares"] == [0.25, 0.75]


def test_what_cannot_be_averaged_is_told(run: "Run", model_file: Path, other_file: Path, tmp_path: Path) -> None:
    output = tmp_path / "mean.gguf"
    alone = run("average", model_file, "--output", output)
    assert alone.code == 2 and "name the other one" in alone.err
    words = run("average", model_file, other_file, "--output", output, "--shares", "half,half")
    assert words.code == 2 and "such as 0.5,0.5" in words.err
    assert not output.exists()
