"""`understudy serve` as a process of its own, with the embedded model and a key."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

KEY = "a-key-of-the-tests"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address; the key is `KEY`."""
    log = tmp_path_factory.mktemp("server") / "log"
    command = [sys.executable, "-m", "understudy.cli", "serve", "--port", "0"]
    environment = {**os.environ, "UNDERSTUDY_API_KEY": KEY}
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
