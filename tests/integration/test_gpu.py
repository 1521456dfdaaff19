"""All tests of the GPU, in a process that a driver may take down without taking this suite along."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_gpu() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "gpu and not slow", "-p", "no:cacheprovider"]
    files = [str(ROOT / "tests" / name) for name in ("kernels", "model")]
    environment = {**os.environ, "LP_NUM_THREADS": "2"}
    run = subprocess.run(
        [*command, *files], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    if run.returncode == 0 and " passed" not in run.stdout:
        pytest.skip(run.stdout[-400:])
    assert run.returncode == 0, f"exit code {run.returncode}\n{run.stdout[-4000:]}\n{run.stderr[-2000:]}"
