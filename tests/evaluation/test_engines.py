"""Engines in processes of their own."""

from pathlib import Path

import pytest

from understudy.errors import EngineError
from understudy.evaluation.engines import EngineProcess, installed_engines
from understudy.kernels.native import native_module
from understudy.model.synthetic import write_synthetic
from understudy.testing import tiny_config
from understudy.testing.tiny import byte_tokenizer_definition

pytestmark = pytest.mark.skipif(native_module() is None, reason="the native kernels are not built")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "x.gguf"
    write_synthetic(path, tiny_config(), byte_tokenizer_definition(), file_type="q8_0")
    return path


def test_an_engine_answers_until_it_is_closed(model: Path) -> None:
    assert installed_engines()[0] == "understudy"
    with EngineProcess("understudy", model, threads=1) as engine:
        assert engine.load_s
        assert engine.can == {"prefill", "decode", "extend", "branch", "floors"}
        assert "cpu" in engine.version
        assert engine.ask(prefill=40)["seconds"] > 0
        answer = engine.ask(branch=3, decode=2)
        assert answer["seconds_a_token"] > 0
        assert answer["peak_bytes"] > 1 << 20


def test_an_engine_that_dies_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"understudy ended .* \(exit code 1\)"):
        EngineProcess("understudy", tmp_path / "missing.gguf", threads=1)
