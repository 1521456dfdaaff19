"""The whole workshop, killed again and again."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "smoke.toml"
KILLS = 10
STAGES = ("tokenizer", "teacher", "importance", "candidates", "student", "finetuned", "quantized")


def start(output: Path) -> subprocess.Popen[bytes]:
    code = "from understudy.cli import main; main()"
    command = [sys.executable, "-c", code, "make", str(RECIPE), "--data", str(ROOT), "--output", str(output)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (output.parent / f"{output.name}.log").open("ab") as log:
        return subprocess.Popen([*command, "--threads", "1"], stdout=log, stderr=log, env=environment)


def digests(output: Path) -> dict[str, str]:
    """Hashes of every model, table and tokenizer; reports hold dates and times."""
    return {
        str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest()
        for stage in STAGES
        for path in sorted((output / stage).rglob("*"))
        if path.suffix in (".safetensors", ".gguf", ".json", ".csv") and path.is_file()
    }


@pytest.mark.slow
def test_ten_kills_change_nothing(tmp_path: Path) -> None:
    began = time.monotonic()
    assert start(tmp_path / "whole").wait() == 0
    seconds = time.monotonic() - began
    rng = random.Random(11)
    killed = 0
    while killed < KILLS:
        process = start(tmp_path / "torn")
        try:
            process.wait(timeout=rng.uniform(0.1, 0.35) * seconds)
            break  # it ended before it could be killed
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed += 1
    assert killed >= 3
    assert start(tmp_path / "torn").wait() == 0
    whole, torn = digests(tmp_path / "whole"), digests(tmp_path / "torn")
    assert len(whole) > 20
    assert torn == whole
    assert (tmp_path / "torn" / "published" / "README.md").read_text().startswith("---")
