"""`understudy serve` as a process of its own, with the embedded model and a key."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

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
