"""The command line in this process, on a random model's file."""

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path

import pytest

from understudy.cli import main
from understudy.model.gguf_writer import write_gguf
from understudy.testing import byte_tokenizer, random_tensors, tiny_config


@dataclasses.dataclass(frozen=True)
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture(scope="session")
def small_context_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a context of 400 tokens, which is soon full."""
    path = tmp_path_factory.mktemp("model") / "small.gguf"
    config = tiny_config(max_position_embeddings=400)
    write_gguf(path, config, random_tensors(config), byte_tokenizer().definition, None, file_type="f16")
    return path


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    config = tiny_config()
    write_gguf(path, config, random_tensors(config), byte_tokenizer().definition, None, file_type="f16")
    return path


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `understudy` with arguments and what is typed."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("UNDERSTUDY_API_KEY", raising=False)

    def run(*arguments: object, typed: str | bytes = "") -> Result:
        data = typed.encode() if isinstance(typed, str) else typed
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
        code: object = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code
        captured = capsys.readouterr()
        return Result(code if isinstance(code, int) else 0, captured.out, captured.err)

    return run
