"""`understudy quantize` from a folder to a file with its proof."""

from pathlib import Path

import pytest
import torch

from understudy.cli.app import main
from understudy.kernels.formats import StorageType
from understudy.model.checkpoint import load_model
from understudy.testing import tiny_model
from understudy.training.folder import write_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tiny_model(seed=3, hidden_size=256, intermediate_size=512, head_dim=64)
    path = tmp_path_factory.mktemp("hf") / "tiny"
    tensors = {name: torch.from_numpy(w.dense()).bfloat16() for name, w in model.weights.items()}
    write_folder(path, model.config, tensors, model.tokenizer)
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as end:
        main(["quantize", *arguments])
    return int(end.value.code or 0), " ".join(capsys.readouterr().err.split())


def test_by_name(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "tiny-q4.gguf"
    code, text = run(capsys, str(folder), str(output), "--to", "q4", "--samples", "2", "--no-feedback")
    assert code == 0
    assert load_model(output).weights["lm_head.weight"].kind is StorageType.Q6_K
    for shown in ("bits per weight", "weights in memory", "keys and values, 4096 tokens", "memory-mapped apart"):
        assert shown in text
    assert (tmp_path / "tiny.calibration.safetensors").exists()


def test_by_memory(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "tiny-mixed.gguf"
    code, text = run(capsys, str(folder), str(output), "--memory", "4.2MB", "--context", "64", "--calibration", "none")
    assert code == 0
    assert "of 4.2 MB" in text
    assert [p.name for p in tmp_path.iterdir()] == ["tiny-mixed.gguf"]


def test_a_budget_that_cannot_be_met(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = run(capsys, str(folder), str(tmp_path / "x.gguf"), "--memory", "1MB", "--calibration", "none")
    assert code == 2
    assert "the smallest plan takes" in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("to", ["w4g128", "nvigi"])
def test_folders(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], to: str) -> None:
    code, text = run(capsys, str(folder), str(tmp_path / "out"), "--to", to, "--calibration", "none")
    assert code == 0, text
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    wanted = {"w4g128": "model.safetensors", "nvigi": "nvigi.model.config.json"}[to]
    assert len(list((tmp_path / "out").rglob(wanted))) == 1


def test_feedback_needs_texts(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = run(capsys, str(folder), str(tmp_path / "x.gguf"), "--feedback", "--calibration", "none")
    assert code == 2
    assert "--feedback needs calibration texts" in text
