"""`understudy serve` as a process of its own."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from understudy.model.gguf_writer import write_gguf
from understudy.testing import byte_tokenizer, random_tensors, tiny_config

KEY = "a-key-of-the-tests"


@contextmanager
def serving(log: Path, *options: str, **variables: str) -> Iterator[str]:
    """A server's address, once it is ready; its log must hold no failure."""
    command = [sys.executable, "-m", "understudy.cli", "serve", "--port", "0", *options]
    environment = {**os.environ, **variables}
    with (
        log.open("w") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment) as process,
    ):
        assert process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
        assert found, log.read_text()
        try:
            for _ in range(600):
                if httpx.get(f"{found[0]}/v1/health/ready").status_code == 200:
                    break
                time.sleep(0.1)
            yield found[0]
        finally:
            process.terminate()
            process.wait(30)
    assert "Traceback" not in log.read_text()
    assert " ERROR " not in log.read_text()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The embedded model's; the key is `KEY`."""
    with serving(tmp_path_factory.mktemp("server") / "log", UNDERSTUDY_API_KEY=KEY) as address:
        yield address


@pytest.fixture
def short_server(tmp_path: Path) -> Iterator[str]:
    """A tiny random model's, which ends each answer after 2 s; without a key."""
    model, config = tmp_path / "harrow.gguf", tiny_config()
    write_gguf(model, config, random_tensors(config), byte_tokenizer().definition, None, file_type="f16")
    (tmp_path / "options.toml").write_text("max_request_s = 2\n")
    options = ("--model", str(model), "--config", str(tmp_path / "options.toml"))
    with serving(tmp_path / "log", *options) as address:
        yield address


@pytest.fixture(scope="session")
def key() -> str:
    return KEY


@pytest.fixture(scope="session")
def node_modules() -> Path:
    folder = Path(os.environ.get("NODE_MODULES") or Path(__file__).parents[2] / "node_modules")
    if not (folder / "openai").is_dir():
        pytest.skip("npm install openai, or set NODE_MODULES to its folder.")
    return folder


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave what imports the extra `clients` alone, unless it is asked for."""
    needs_extra = collection_path.name in ("test_langchain.py",)
    return True if needs_extra and "not clients" in config.option.markexpr else None
