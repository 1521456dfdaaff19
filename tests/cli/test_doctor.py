import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from understudy import __version__
from understudy.kernels.native import kernel_names

if TYPE_CHECKING:
    from conftest import Run


def test_what_runs_where(run: "Run", model_file: Path) -> None:
    result = run("doctor", "--model", model_file, "--backend", "reference")
    assert (result.code, result.err) == (0, "")
    for fragment in (str(model_file), "reference", "tokens/s", "KV cache", "why", "numpy", "cores"):
        assert fragment in result.out


def test_json(run: "Run", model_file: Path) -> None:
    found = json.loads(run("doctor", "--model", model_file, "--json").out)
    assert found["versions"]["understudy"] == __version__
    assert found["backend"]["chosen"].startswith(("cpu", "reference"))
    assert found["model"]["context"] == "4096 tokens"


def test_without_a_gpu_the_cpu_runs_the_model_and_a_line_says_why(
    run: "Run", model_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    result = run("doctor", "--model", model_file, "--json", "--backend", "wgpu:no such GPU")
    found = json.loads(result.out)
    assert found["backend"]["chosen"].startswith(("cpu", "reference"))
    assert found["backend"]["why"] == "no GPU can be used (see below)"
    assert found["gpu"]["--backend wgpu"]
    assert "The CPU runs the model, not a GPU." in caplog.text


@pytest.mark.skipif(not kernel_names(), reason="the native kernels are not built")
def test_the_census_counts_zero_neurons(run: "Run", model_file: Path) -> None:
    found = json.loads(run("doctor", "--model", model_file, "--json", "--census").out)["zero_neurons"]
    assert 20 < float(found["all_layers"].rstrip("%")) < 80  # random weights
    assert len(found) > 1


def test_the_census_needs_kernels(run: "Run", model_file: Path) -> None:
    result = run("doctor", "--model", model_file, "--backend", "reference", "--census")
    assert result.code == 2
    assert "--backend cpu" in result.err
